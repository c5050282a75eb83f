/* Writes to an NBD server through libnbd, several requests in flight from one thread.
 * Usage: nbdload URI rand|seq BLOCK-BYTES DEPTH SECONDS|BYTESb window|batch [SEED]
 *   window: DEPTH requests are always in flight; one flush at the very end
 *   batch:  DEPTH writes, wait for all of them, one flush, repeated
 * Prints: bytes per second, writes per second, seconds. The time includes the last flush. Every block of data is different. */
#define _GNU_SOURCE
#include <libnbd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(void)
{
	fprintf(stderr, "nbdload: %s\n", nbd_get_error());
	exit(1);
}

static uint64_t state;

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static unsigned in_flight;
static char **idle;
static unsigned idles;

static int done(void *buf, int *error)
{
	if (*error) {
		fprintf(stderr, "nbdload: write: errno %d\n", *error);
		exit(1);
	}
	in_flight--;
	idle[idles++] = buf;
	return 1;
}

int main(int argc, char **argv)
{
	if (argc < 7)
		return 2;
	int is_random = !strcmp(argv[2], "rand"), is_batch = !strcmp(argv[6], "batch");
	uint64_t block = strtoull(argv[3], NULL, 10);
	unsigned depth = strtoul(argv[4], NULL, 10);
	char *unit;
	double amount = strtod(argv[5], &unit);
	uint64_t most = *unit == 'b' ? (uint64_t)amount / block : UINT64_MAX;
	double seconds = *unit == 'b' ? 1e9 : amount;
	state = argc > 7 ? strtoull(argv[7], NULL, 10) * 2654435761u + 88172645463325252u : 88172645463325252u;

	struct nbd_handle *h = nbd_create();
	if (!h || nbd_connect_uri(h, argv[1]) == -1)
		fail();
	int64_t size = nbd_get_size(h);
	if (size < (int64_t)block)
		fail();
	idle = calloc(depth, sizeof *idle);
	for (; idles < depth; idles++) {
		idle[idles] = aligned_alloc(4096, (block + 4095) / 4096 * 4096);
		if (!idle[idles])
			return 1;
		for (uint64_t i = 0; i + 8 <= block; i += 8) {
			uint64_t v = next();
			memcpy(idle[idles] + i, &v, 8);
		}
	}
	uint64_t blocks = (uint64_t)size / block, n = 0, place = 0;
	double begin = now(), end = begin + seconds;
	for (int more = 1; more;) {
		while (in_flight < depth && more) {
			char *buf = idle[--idles];
			place = is_random ? next() % blocks : n % blocks;
			memcpy(buf, &n, sizeof n);
			if (nbd_aio_pwrite(h, buf, block, place * block,
					   (nbd_completion_callback){ .callback = done, .user_data = buf }, 0) == -1)
				fail();
			in_flight++;
			n++;
			more = n < most && now() < end;
		}
		if (!is_batch && more) {
			if (nbd_poll(h, -1) == -1)
				fail();
			continue;
		}
		while (in_flight)
			if (nbd_poll(h, -1) == -1)
				fail();
		if (nbd_flush(h, 0) == -1)
			fail();
	}
	double took = now() - begin;
	printf("%.0f %.1f %.6f\n", n * (double)block / took, n / took, took);
	nbd_shutdown(h, 0);
	nbd_close(h);
	return 0;
}
