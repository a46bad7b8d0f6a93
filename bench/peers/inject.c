/* One thread that puts the same frame into the host's stack again and again, by one of the kernel's own doors.
 *
 * usage: inject tap <interface> <frame in hexadecimal>       write(2) to a TAP device, a frame a call
 *        inject packet <interface> <frame in hexadecimal>    sendmmsg(2) on AF_PACKET, 64 frames a call, past the qdisc
 * prints: sending, and at SIGINT or SIGTERM: made <count> frames
 *
 * The packet socket leaves by the interface: whoever is to get the frames is at its other end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define LARGEST_FRAME 1514
#define BATCH 64

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static size_t read_frame(const char *text, unsigned char *frame)
{
	size_t length = 0;

	while (length < LARGEST_FRAME && sscanf(text + 2 * length, "%2hhx", frame + length) == 1)
		length++;
	return length;
}

static int report(unsigned long long made)
{
	printf("made %llu frames\n", made);
	return 0;
}

static int by_tap(const char *name, const unsigned char *frame, size_t length)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int descriptor = open("/dev/net/tun", O_RDWR);
	unsigned long long made = 0;

	if (descriptor < 0)
		return fail("/dev/net/tun");
	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (ioctl(descriptor, TUNSETIFF, &request) < 0)
		return fail("TUNSETIFF");
	puts("sending");
	fflush(stdout);
	while (!stopped) {
		ssize_t written = write(descriptor, frame, length);

		if (written == (ssize_t)length)
			made++;
		else if (written >= 0 || (errno != EINTR && errno != EAGAIN && errno != EIO))
			return fail("write");
		/* EIO: the device is down; it may not be up yet. */
	}
	return report(made);
}

static int by_packet_socket(const char *name, unsigned char *frame, size_t length)
{
	struct sockaddr_ll out = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(name) };
	struct iovec part = { .iov_base = frame, .iov_len = length };
	struct mmsghdr messages[BATCH];
	/* Protocol 0: nothing that arrives comes to this socket. */
	int descriptor = socket(AF_PACKET, SOCK_RAW, 0), on = 1;
	unsigned long long made = 0;

	memset(messages, 0, sizeof(messages));
	for (int number = 0; number < BATCH; number++) {
		messages[number].msg_hdr.msg_iov = &part;
		messages[number].msg_hdr.msg_iovlen = 1;
	}
	if (descriptor < 0)
		return fail("AF_PACKET");
	if (bind(descriptor, (struct sockaddr *)&out, sizeof(out)) < 0)
		return fail("bind");
	if (setsockopt(descriptor, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)) < 0)
		return fail("PACKET_QDISC_BYPASS");
	puts("sending");
	fflush(stdout);
	while (!stopped) {
		int sent = sendmmsg(descriptor, messages, BATCH, 0);

		if (sent > 0)
			made += (unsigned long long)sent;
		else if (errno != EINTR && errno != EAGAIN && errno != ENOBUFS)
			return fail("sendmmsg");
	}
	return report(made);
}

int main(int argc, char **argv)
{
	unsigned char frame[LARGEST_FRAME];
	size_t length = argc == 4 ? read_frame(argv[3], frame) : 0;

	signal(SIGINT, stop);
	signal(SIGTERM, stop);
	if (length >= 14 && strcmp(argv[1], "tap") == 0)
		return by_tap(argv[2], frame, length);
	if (length >= 14 && strcmp(argv[1], "packet") == 0)
		return by_packet_socket(argv[2], frame, length);
	fprintf(stderr, "usage: inject tap|packet INTERFACE FRAME\n");
	return 2;
}
