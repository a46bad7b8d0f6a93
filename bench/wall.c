/* The peer of bench/attaching.py: the wall of bench/wall.py, as XDP, in C. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>

#define SECTION(name) __attribute__((section(name), used))
#define big16(x) __builtin_bswap16(x)
#define big32(x) __builtin_bswap32(x)

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;

struct {
    int (*type)[BPF_MAP_TYPE_HASH];
    int (*max_entries)[1024];
    __u32 *key;
    __u64 *value;
} blocked SECTION(".maps");

enum { SHORT, ECHO, BLOCKED, PRIVATE, SCAN, PASSED, COUNTERS };

struct {
    int (*type)[BPF_MAP_TYPE_ARRAY];
    int (*max_entries)[COUNTERS];
    __u32 *key;
    __u64 *value;
} counters SECTION(".maps");

static __attribute__((always_inline)) int counted(__u32 which, int verdict)
{
    __u64 *counter = lookup(&counters, &which);

    if (counter)
        __sync_fetch_and_add(counter, 1);
    return verdict;
}

SECTION("xdp") int wall(struct xdp_md *context)
{
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct ethhdr *ethernet = data;
    void *at = ethernet + 1;
    struct iphdr *ip;
    __u16 kind;

    if (data + 34 > end)
        return counted(SHORT, XDP_DROP);
    kind = ethernet->h_proto;
    for (int tags = 0; tags < 4; tags++) {
        if (kind != big16(0x8100) && kind != big16(0x88a8) && kind != big16(0x9100))
            break;
        if (at + 4 > end)
            return XDP_PASS;
        kind = *(__u16 *)(at + 2);
        at += 4;
    }
    ip = at;
    if (kind != big16(ETH_P_IP) || (void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
        return XDP_PASS;
    at += ip->ihl * 4;
    int first = !(ip->frag_off & big16(0x1fff));
    if (first && ip->protocol == IPPROTO_ICMP && at + 8 <= end)
        if (*(__u8 *)at == 8)
            return counted(ECHO, XDP_DROP);
    if (lookup(&blocked, &ip->saddr))
        return counted(BLOCKED, XDP_DROP);
    if ((ip->saddr & big32(0xffff0000)) == big32(0xc0a80000))
        return counted(PRIVATE, XDP_DROP);
    if (first && ip->protocol == IPPROTO_TCP && at + sizeof(struct tcphdr) <= end) {
        struct tcphdr *tcp = at;

        switch (big16(tcp->dest)) {
        case 22:
        case 23:
        case 445:
        case 3389:
            return counted(SCAN, XDP_DROP);
        }
        if (tcp->syn && tcp->fin)
            return counted(SCAN, XDP_DROP);
    }
    return counted(PASSED, XDP_PASS);
}
