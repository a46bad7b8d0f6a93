/* Runs a pcap-filter expression over a capture held in memory, with libpcap's own interpreter.
 *
 * usage: libpcap_filter <capture> <expression> <repeats>
 * prints: packets <n> repeats <n> matches <n> mean_ns <ns a packet> best_ns <ns a packet, fastest pass> instructions <n>
 *
 * Headers and packets are prepared beforehand, and the timed loop calls pcap_offline_filter() and nothing else. One pass
 * before the clock starts counts the matches and warms the caches.
 */
#include <pcap/pcap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct packet {
	struct pcap_pkthdr header;
	const u_char *bytes;
};

struct capture {
	struct packet *packets;
	size_t count;
	size_t room;
};

static double nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}

static void *must(void *memory)
{
	if (memory == NULL) {
		fprintf(stderr, "out of memory\n");
		exit(1);
	}
	return memory;
}

/* All bytes end up in one block, one packet after the other at multiples of 8, as a capture buffer would hold them. */
static void load(pcap_t *file, struct capture *capture)
{
	struct pcap_pkthdr *header;
	const u_char *bytes;
	size_t used = 0, room = 1 << 20;
	u_char *block = must(malloc(room));
	int outcome;

	while ((outcome = pcap_next_ex(file, &header, &bytes)) == 1) {
		size_t length = ((size_t)header->caplen + 7) & ~(size_t)7;

		while (used + length > room)
			block = must(realloc(block, room *= 2));
		if (capture->count == capture->room) {
			capture->room = capture->room ? 2 * capture->room : 1024;
			capture->packets = must(realloc(capture->packets, capture->room * sizeof(struct packet)));
		}
		memcpy(block + used, bytes, header->caplen);
		capture->packets[capture->count++].header = *header;
		used += length;
	}
	if (outcome != PCAP_ERROR_BREAK) {
		fprintf(stderr, "%s\n", pcap_geterr(file));
		exit(1);
	}
	used = 0; /* the block no longer moves: now the addresses hold */
	for (size_t i = 0; i < capture->count; i++) {
		capture->packets[i].bytes = block + used;
		used += ((size_t)capture->packets[i].header.caplen + 7) & ~(size_t)7;
	}
}

static unsigned long pass(const struct capture *capture, const struct bpf_program *program)
{
	unsigned long matches = 0;

	for (size_t i = 0; i < capture->count; i++)
		matches += pcap_offline_filter(program, &capture->packets[i].header, capture->packets[i].bytes) != 0;
	return matches;
}

int main(int argc, char **argv)
{
	char error[PCAP_ERRBUF_SIZE];
	struct capture capture = {0};
	struct bpf_program program;
	long repeats;

	if (argc != 4 || (repeats = strtol(argv[3], NULL, 10)) < 1) {
		fprintf(stderr, "usage: libpcap_filter <capture> <expression> <repeats>\n");
		return 2;
	}
	pcap_t *file = pcap_open_offline(argv[1], error);

	if (file == NULL) {
		fprintf(stderr, "%s\n", error);
		return 1;
	}
	if (pcap_compile(file, &program, argv[2], 1, PCAP_NETMASK_UNKNOWN) != 0) {
		fprintf(stderr, "%s\n", pcap_geterr(file));
		return 1;
	}
	load(file, &capture);
	if (capture.count == 0) {
		fprintf(stderr, "the capture holds no packet\n");
		return 1;
	}

	unsigned long matches = pass(&capture, &program);
	double best = 0, total = 0;

	for (long i = 0; i < repeats; i++) {
		double start = nanoseconds();
		unsigned long again = pass(&capture, &program);
		double elapsed = nanoseconds() - start;

		if (again != matches) {
			fprintf(stderr, "pass %ld matched %lu packets, the first %lu\n", i, again, matches);
			return 1;
		}
		total += elapsed;
		if (i == 0 || elapsed < best)
			best = elapsed;
	}
	printf("packets %zu repeats %ld matches %lu mean_ns %.3f best_ns %.3f instructions %u\n", capture.count, repeats,
	       matches, total / (double)repeats / (double)capture.count, best / (double)capture.count, program.bf_len);
	return 0;
}
