/* UDP round trips through the kernel's sockets: one process echoes, the other one times each trip.
 *
 * usage: udp_ping pong <port> [spin]
 *        udp_ping ping <address> <port> <seconds> [spin]
 * pong prints: ready
 * ping prints: trips <count> lost <count> p50 <ns> p99 <ns> min <ns> max <ns>
 *
 * 18 bytes of data make a frame of 60 bytes. Without "spin" both sleep in recv(2) until the packet is there; with it
 * they ask again and again without ever sleeping, which costs a processor each and is the sockets' best time.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

#define DATA_BYTES 18
#define MOST_TRIPS (1u << 24)
#define PATIENCE_NS 1000000000ull

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static int pong(int port, int flags)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	struct sockaddr_in there;
	int descriptor = socket(AF_INET, SOCK_DGRAM, 0);
	char data[2048];

	if (descriptor < 0 || bind(descriptor, (struct sockaddr *)&here, sizeof(here)) < 0)
		return fail("bind");
	puts("ready");
	fflush(stdout);
	for (;;) {
		socklen_t size = sizeof(there);
		ssize_t length = recvfrom(descriptor, data, sizeof(data), flags, (struct sockaddr *)&there, &size);

		if (length < 0) {
			if (errno == EAGAIN)
				continue;
			return fail("recvfrom");
		}
		if (sendto(descriptor, data, (size_t)length, 0, (struct sockaddr *)&there, size) < 0)
			return fail("sendto");
	}
}

static int ascending(const void *first, const void *second)
{
	uint32_t a = *(const uint32_t *)first, b = *(const uint32_t *)second;

	return a < b ? -1 : a > b;
}

/* Waits for the echo of `sequence`; 1 if it came, 0 if it is lost, -1 for an error. */
static int await(int descriptor, uint64_t sequence, uint64_t sent, int flags)
{
	char data[2048];

	for (;;) {
		ssize_t length = recv(descriptor, data, sizeof(data), flags);

		if (length >= (ssize_t)sizeof(sequence) && memcmp(data, &sequence, sizeof(sequence)) == 0)
			return 1;
		if (length < 0 && errno != EAGAIN)
			return -1;
		if (now() - sent > PATIENCE_NS)
			return 0;
	}
}

static int ping(const char *address, int port, double seconds, int flags)
{
	struct sockaddr_in there = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	struct timeval patience = { .tv_sec = 1 };
	int descriptor = socket(AF_INET, SOCK_DGRAM, 0);
	uint32_t *trips = malloc(MOST_TRIPS * sizeof(*trips));
	size_t count = 0, lost = 0;
	char data[DATA_BYTES] = { 0 };

	if (trips == NULL || inet_pton(AF_INET, address, &there.sin_addr) != 1)
		return fail("arguments");
	if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&there, sizeof(there)) < 0 ||
	    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
		return fail("connect");
	uint64_t end = now() + (uint64_t)(seconds * 1e9);

	for (uint64_t sequence = 0; count < MOST_TRIPS; sequence++) {
		uint64_t sent = now();

		if (sent > end)
			break;
		memcpy(data, &sequence, sizeof(sequence));
		if (send(descriptor, data, sizeof(data), 0) < 0)
			return fail("send");
		int came = await(descriptor, sequence, sent, flags);

		if (came < 0)
			return fail("recv");
		if (came == 0)
			lost++;
		else
			trips[count++] = (uint32_t)(now() - sent);
	}
	if (count == 0) {
		fprintf(stderr, "no echo came\n");
		return 1;
	}
	qsort(trips, count, sizeof(*trips), ascending);
	printf("trips %zu lost %zu p50 %u p99 %u min %u max %u\n", count, lost, trips[count / 2],
	       trips[(size_t)((double)count * 0.99)], trips[0], trips[count - 1]);
	return 0;
}

int main(int argc, char **argv)
{
	int spin = argc > 1 && strcmp(argv[argc - 1], "spin") == 0;

	argc -= spin;
	if (argc == 3 && strcmp(argv[1], "pong") == 0)
		return pong(atoi(argv[2]), spin ? MSG_DONTWAIT : 0);
	if (argc == 5 && strcmp(argv[1], "ping") == 0)
		return ping(argv[2], atoi(argv[3]), atof(argv[4]), spin ? MSG_DONTWAIT : 0);
	fprintf(stderr, "usage: udp_ping pong PORT [spin] | udp_ping ping ADDRESS PORT SECONDS [spin]\n");
	return 2;
}
