/*
 * The init of a guest that exists to test the socket device: services on vsock ports, chosen deeds on the kernel's
 * command line. Built static by the test that uses it.
 *
 *   t=reboot  resets at once          t=panic  exits, so that the kernel panics
 *   t=dial    connects to port 1024 of the host, says hello, waits for the answer, resets
 *   t=blk     prints /proc/partitions
 *   t=spin    keeps a processor busy
 *   t=net     prints the network card's address, sends a frame to 127.0.0.1 and one to 192.0.2.1, and prints the length
 *             of the first IPv4 frame that comes back
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

enum { ECHO = 10, SINK = 11, SOURCE = 12, DEAF = 13, ABORT = 14 };
enum { BLOCK = 65536 };

static int vsock(unsigned cid, unsigned port, struct sockaddr_vm *address)
{
	memset(address, 0, sizeof *address);
	address->svm_family = AF_VSOCK;
	address->svm_cid = cid;
	address->svm_port = port;
	return socket(AF_VSOCK, SOCK_STREAM, 0);
}

static int write_all(int to, const char *bytes, size_t count)
{
	while (count > 0) {
		ssize_t written = write(to, bytes, count);
		if (written <= 0)
			return -1;
		bytes += written;
		count -= written;
	}
	return 0;
}

/* Sends back what comes; half-closes when the other side does. */
static void echo(int stream)
{
	char *block = malloc(BLOCK);
	ssize_t count;
	while ((count = read(stream, block, BLOCK)) > 0 && write_all(stream, block, count) == 0)
		;
	shutdown(stream, SHUT_WR);
	free(block);
}

/* Reads to the end, checks that byte i is i modulo 251, and answers with the count, or with the place of an error. */
static void sink(int stream)
{
	char *block = malloc(BLOCK);
	unsigned long long total = 0, wrong = 0;
	unsigned phase = 0;
	ssize_t count;
	while ((count = read(stream, block, BLOCK)) > 0) {
		/* Every byte is checked in its first block and one in each block after it: translated code is slow. */
		ssize_t step = total < BLOCK ? 1 : count;
		for (ssize_t i = 0; i < count; i += step)
			if ((unsigned char)block[i] != (phase + i) % 251 && !wrong)
				wrong = total + i + 1;
		phase = (phase + count) % 251;
		total += count;
	}
	if (wrong)
		dprintf(stream, "wrong at %llu\n", wrong - 1);
	else
		dprintf(stream, "%llu\n", total);
	free(block);
}

/* Reads "<bytes> <block>\n" and sends as many bytes in blocks of that size. */
static void source(int stream)
{
	char line[64] = { 0 };
	for (int i = 0; i < 63 && read(stream, line + i, 1) == 1 && line[i] != '\n'; i++)
		;
	unsigned long long left = 0;
	unsigned size = BLOCK;
	sscanf(line, "%llu %u", &left, &size);
	/* 251 blocks' worth of the pattern would be exact; a block from each phase is the same without copying. */
	char *pattern = malloc(size + 251);
	for (unsigned i = 0; i < size + 251; i++)
		pattern[i] = i % 251;
	unsigned phase = 0;
	while (left > 0) {
		size_t count = left < size ? left : size;
		if (write_all(stream, pattern + phase, count) < 0)
			break;
		phase = (phase + count) % 251;
		left -= count;
	}
	free(pattern);
}

static void deaf(int stream)
{
	(void)stream;
	sleep(1000);
}

static void abort_it(int stream)
{
	struct linger linger = { 1, 0 };
	setsockopt(stream, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

static const struct { unsigned port; void (*serve)(int); } services[] = {
	{ ECHO, echo }, { SINK, sink }, { SOURCE, source }, { DEAF, deaf }, { ABORT, abort_it },
};

struct call { int stream; void (*serve)(int); };

static void *answer(void *argument)
{
	struct call call = *(struct call *)argument;
	free(argument);
	call.serve(call.stream);
	close(call.stream);
	return NULL;
}

static int listeners[sizeof services / sizeof *services];

static void listen_on(size_t service)
{
	struct sockaddr_vm address;
	listeners[service] = vsock(VMADDR_CID_ANY, services[service].port, &address);
	if (bind(listeners[service], (void *)&address, sizeof address) || listen(listeners[service], 1024))
		perror("listen");
}

static void *accept_on(void *argument)
{
	size_t service = (size_t)argument;
	int listener = listeners[service];
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	for (;;) {
		struct call *call = malloc(sizeof *call);
		pthread_t thread;
		call->serve = services[service].serve;
		call->stream = accept(listener, NULL, NULL);
		if (call->stream < 0 || pthread_create(&thread, &small, answer, call)) {
			perror("accept");
			usleep(10000);
			continue;
		}
		pthread_detach(thread);
	}
}

static void dial(void)
{
	struct sockaddr_vm address;
	char answer;
	int stream = vsock(VMADDR_CID_HOST, 1024, &address);
	if (connect(stream, (void *)&address, sizeof address))
		perror("dial");
	write_all(stream, "hello\n", 6);
	read(stream, &answer, 1);
	close(stream);
	reboot(RB_AUTOBOOT);
}

static void print(const char *path)
{
	char text[65536];
	int file = open(path, O_RDONLY);
	ssize_t count = read(file, text, sizeof text);
	if (count > 0)
		write_all(1, text, count);
	close(file);
}

/* An Ethernet frame whose payload is an IPv4 header of sorts: what a border looks at. */
static void send_frame(int card, const char *destination)
{
	unsigned char frame[60] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45 };
	struct in_addr to;
	inet_aton(destination, &to);
	memcpy(frame + 30, &to, 4);
	if (write(card, frame, sizeof frame) < 0)
		perror("send");
}

static void network(void)
{
	static unsigned char frame[65536];
	struct ifreq request = { .ifr_name = "eth0" };
	int card = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
	print("/sys/class/net/eth0/address");
	request.ifr_mtu = 65520;
	if (ioctl(card, SIOCSIFMTU, &request))
		perror("mtu");
	request.ifr_flags = IFF_UP;
	if (ioctl(card, SIOCSIFFLAGS, &request) || ioctl(card, SIOCGIFINDEX, &request))
		perror("eth0");
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
				       .sll_ifindex = request.ifr_ifindex };
	if (bind(card, (void *)&address, sizeof address))
		perror("bind");
	send_frame(card, "127.0.0.1");
	send_frame(card, "192.0.2.1");
	for (;;) {
		struct sockaddr_ll from;
		socklen_t size = sizeof from;
		ssize_t count = recvfrom(card, frame, sizeof frame, 0, (void *)&from, &size);
		if (count > 14 && from.sll_pkttype != PACKET_OUTGOING && frame[12] == 8 && frame[13] == 0) {
			printf("received %zd\n", count);
			fflush(stdout);
			return;
		}
	}
}

int main(void)
{
	static char parameters[4096];
	struct timespec up;
	pthread_t thread;

	mkdir("/proc", 0755);
	mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mkdir("/sys", 0755);
	mount("sys", "/sys", "sysfs", 0, NULL);
	int file = open("/proc/cmdline", O_RDONLY);
	read(file, parameters, sizeof parameters - 1);
	close(file);

	clock_gettime(CLOCK_BOOTTIME, &up);
	printf("init at %ld.%03ld s, %ld processors\n", (long)up.tv_sec, up.tv_nsec / 1000000,
	       sysconf(_SC_NPROCESSORS_ONLN));
	fflush(stdout);
	if (strstr(parameters, "t=reboot"))
		reboot(RB_AUTOBOOT);
	if (strstr(parameters, "t=panic"))
		return 1;
	if (strstr(parameters, "t=dial"))
		dial();
	if (strstr(parameters, "t=clock"))
		print("/sys/devices/system/clocksource/clocksource0/current_clocksource");
	if (strstr(parameters, "t=blk"))
		print("/proc/partitions");
	if (strstr(parameters, "t=net"))
		network();
	if (strstr(parameters, "t=spin") && fork() == 0)
		for (;;)
			;
	/* "serving" is what a test waits for before it dials: every port must be listened on by then. */
	for (size_t i = 0; i < sizeof services / sizeof *services; i++)
		listen_on(i);
	for (size_t i = 1; i < sizeof services / sizeof *services; i++)
		pthread_create(&thread, NULL, accept_on, (void *)i);
	printf("serving\n");
	fflush(stdout);
	accept_on((void *)0);
}
