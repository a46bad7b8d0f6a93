/* The peer of bench/kernel_functions.py: a five-tuple match with one look-up, as XDP, in C. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/in.h>

#define SECTION(name) __attribute__((section(name), used))
#define big16(x) __builtin_bswap16(x)

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;

struct key {
    __u32 version, protocol;
    __u32 source[4], destination[4];
    __u16 source_port, destination_port;
    __u32 pad;
};

extern int flows;

SECTION("xdp") int match(struct xdp_md *context)
{
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct ethhdr *ethernet = data;
    struct key key = {};
    void *at = ethernet + 1;
    __u16 kind;

    if (at > end)
        return XDP_PASS;
    kind = ethernet->h_proto;
    for (int tags = 0; tags < 4; tags++) {
        if (kind != big16(0x8100) && kind != big16(0x88a8) && kind != big16(0x9100))
            break;
        if (at + 4 > end)
            return XDP_PASS;
        kind = *(__u16 *)(at + 2);
        at += 4;
    }
    if (kind == big16(ETH_P_IP)) {
        struct iphdr *ip = at;
        if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
            return XDP_PASS;
        key.version = 4;
        key.protocol = ip->protocol;
        key.source[0] = ip->saddr;
        key.destination[0] = ip->daddr;
        at += ip->ihl * 4;
        if (ip->frag_off & big16(0x1fff))
            return lookup(&flows, &key) ? XDP_DROP : XDP_PASS;
    } else if (kind == big16(ETH_P_IPV6)) {
        struct ipv6hdr *ip = at;
        if ((void *)(ip + 1) > end)
            return XDP_PASS;
        key.version = 6;
        key.protocol = ip->nexthdr;
        __builtin_memcpy(key.source, &ip->saddr, 16);
        __builtin_memcpy(key.destination, &ip->daddr, 16);
        at = ip + 1;
    } else {
        return XDP_PASS;
    }
    if ((key.protocol == IPPROTO_TCP || key.protocol == IPPROTO_UDP) && at + 4 <= end) {
        key.source_port = *(__u16 *)at;
        key.destination_port = *(__u16 *)(at + 2);
    }
    return lookup(&flows, &key) ? XDP_DROP : XDP_PASS;
}


