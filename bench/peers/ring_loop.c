/* One producer and one consumer on an rte_ring of 16-byte elements, timed by the consumer against the wall clock.
 *
 * usage: ring_loop <EAL options> -- <bulk> <seconds>
 * prints: elements <count> seconds <time> tsc_hertz <frequency> preempted <times>
 *
 * The consumer checks the first element of each bulk for its place in the sequence, so a ring that lost, doubled or
 * reordered anything ends in an error and not in a figure. Both sides pause and try again when the ring is full or empty,
 * as DPDK's own benchmark does.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_pause.h>
#include <rte_ring_elem.h>

#define RING_ELEMENTS 4096 /* as in ring_perf_autotest */
#define LARGEST_BULK 1024
#define BULKS_PER_CLOCK_READING 1024

struct element {
	uint64_t sequence;
	uint64_t payload;
};

static struct rte_ring *ring;
static unsigned int bulk;
static volatile int finished;

/* Makes the compiler believe that somebody reads and writes the whole array, so that it may not leave out the copy of
 * elements at which nobody looks. */
static inline void touched(struct element *elements)
{
	__asm__ volatile("" : : "r"(elements) : "memory");
}

static double wall_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* How often the scheduler has taken a core from either thread in favour of somebody else. */
static long preemptions(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_nivcsw;
}

static int produce(void *unused)
{
	static struct element elements[LARGEST_BULK];
	uint64_t sequence = 0;

	(void)unused;
	while (!finished) {
		elements[0].sequence = sequence;
		touched(elements);
		if (rte_ring_sp_enqueue_bulk_elem(ring, elements, sizeof(elements[0]), bulk, NULL) != 0)
			sequence++;
		else
			rte_pause();
	}
	return 0;
}

/* Takes `bulks` bulks and returns 0, or -1 if one is not the next in the sequence. */
static int consume(unsigned int bulks, uint64_t *expected)
{
	static struct element elements[LARGEST_BULK];

	for (unsigned int i = 0; i < bulks; i++) {
		while (rte_ring_sc_dequeue_bulk_elem(ring, elements, sizeof(elements[0]), bulk, NULL) == 0)
			rte_pause();
		touched(elements);
		if (elements[0].sequence != (*expected)++)
			return -1;
	}
	return 0;
}

static int measure(double warm_up, double seconds)
{
	uint64_t expected = 0;
	double start = wall_clock();

	do {
		if (consume(BULKS_PER_CLOCK_READING, &expected) != 0)
			return -1;
	} while (wall_clock() - start < warm_up);

	uint64_t before = expected;
	uint64_t cycles = rte_rdtsc();
	long preempted = preemptions();
	double elapsed;

	start = wall_clock();
	do {
		if (consume(BULKS_PER_CLOCK_READING, &expected) != 0)
			return -1;
		elapsed = wall_clock() - start;
	} while (elapsed < seconds);
	cycles = rte_rdtsc() - cycles;
	preempted = preemptions() - preempted;
	printf("elements %llu seconds %.9f tsc_hertz %.0f preempted %ld\n",
	       (unsigned long long)((expected - before) * bulk), elapsed, (double)cycles / elapsed, preempted);
	return 0;
}

int main(int argc, char **argv)
{
	int used = rte_eal_init(argc, argv);

	if (used < 0 || argc - used != 3) {
		fprintf(stderr, "usage: ring_loop <EAL options> -- <bulk> <seconds>\n");
		return 2;
	}
	bulk = (unsigned int)strtoul(argv[used + 1], NULL, 10);
	if (bulk < 1 || bulk > LARGEST_BULK) {
		fprintf(stderr, "bulk must be 1 to %d\n", LARGEST_BULK);
		return 2;
	}
	ring = rte_ring_create_elem("loop", sizeof(struct element), RING_ELEMENTS, SOCKET_ID_ANY,
				    RING_F_SP_ENQ | RING_F_SC_DEQ);
	if (ring == NULL) {
		fprintf(stderr, "no ring: %s\n", rte_strerror(rte_errno));
		return 1;
	}
	unsigned int worker = rte_get_next_lcore((unsigned int)-1, 1, 0);

	if (worker >= RTE_MAX_LCORE || rte_eal_remote_launch(produce, NULL, worker) != 0) {
		fprintf(stderr, "no second core to produce on\n");
		return 1;
	}
	int outcome = measure(0.1, strtod(argv[used + 2], NULL));

	finished = 1;
	rte_eal_mp_wait_lcore();
	if (outcome != 0) {
		fprintf(stderr, "an element came out of its order\n");
		return 1;
	}
	return 0;
}
