/* 4 KiB appended to a growing file, one fdatasync each, one at a time: what an application without a log of ours would do.
 * Usage: appends FILE SECONDS.  Prints commits per second. The file is removed. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static char block[4096];
	if (argc != 3)
		return 2;
	memset(block, 0x5a, sizeof block);
	int fd = open(argv[1], O_CREAT | O_TRUNC | O_WRONLY, 0600);
	if (fd < 0) {
		perror(argv[1]);
		return 1;
	}
	double begin = now(), end = begin + atof(argv[2]), t;
	long n = 0;
	do {
		if (write(fd, block, sizeof block) != sizeof block || fdatasync(fd)) {
			perror(argv[1]);
			return 1;
		}
		n++;
		t = now();
	} while (t < end);
	printf("%.3f\n", n / (t - begin));
	close(fd);
	return unlink(argv[1]) ? 1 : 0;
}
