/* A file over one TCP connection: sendfile on one side, read and write into a new file on the other, then fdatasync.
 * Usage: stream SOURCE NEW-FILE ADDRESS.  Prints the seconds from the connect to the end of the fdatasync. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 1 << 20 };

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void check(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static void send_all(const char *path, struct sockaddr_in *to)
{
	struct stat st;
	int s = socket(AF_INET, SOCK_STREAM, 0), f = open(path, O_RDONLY);
	check(s >= 0 && f >= 0 && !fstat(f, &st), path);
	check(!connect(s, (struct sockaddr *)to, sizeof *to), "connect");
	for (off_t left = st.st_size; left > 0;) {
		ssize_t n = sendfile(s, f, NULL, left);
		check(n > 0, "sendfile");
		left -= n;
	}
	exit(0);
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t len = sizeof a;
	check(inet_pton(AF_INET, argv[3], &a.sin_addr) == 1, argv[3]);
	int l = socket(AF_INET, SOCK_STREAM, 0);
	check(l >= 0 && !bind(l, (struct sockaddr *)&a, sizeof a) && !listen(l, 1), "listen");
	check(!getsockname(l, (struct sockaddr *)&a, &len), "getsockname");
	char *buf = malloc(CHUNK);
	check(buf != NULL, "malloc");
	memset(buf, 0, CHUNK);
	double begin = now();
	pid_t sender = fork();
	check(sender >= 0, "fork");
	if (sender == 0)
		send_all(argv[1], &a);
	int c = accept(l, NULL, NULL), f = open(argv[2], O_CREAT | O_TRUNC | O_WRONLY, 0600);
	check(c >= 0, "accept");
	check(f >= 0, argv[2]);
	for (ssize_t n; (n = read(c, buf, CHUNK)) != 0;) {
		check(n > 0, "read");
		for (ssize_t at = 0, w; at < n; at += w) {
			w = write(f, buf + at, n - at);
			check(w > 0, "write");
		}
	}
	check(!fdatasync(f), "fdatasync");
	printf("%.6f\n", now() - begin);
	int status = 1;
	check(waitpid(sender, &status, 0) == sender && status == 0, "sender");
	return unlink(argv[2]) ? 1 : 0;
}
