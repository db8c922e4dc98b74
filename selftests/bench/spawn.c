// SPDX-License-Identifier: GPL-2.0
/*
 * Run a program with a preload ("" for none), and print behind its output how long it
 * took, in seconds, and in KiB the most that was resident of it or of a program that
 * it ran: small itself, because the figure begins with that of whoever forks.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void become(const char *preload, char **command)
{
	/* Who is tired of waiting ends this program alone. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (*preload)
		setenv("LD_PRELOAD", preload, 1);
	execvp(*command, command);
	perror(*command);
	_exit(127);
}

int main(int argc, char **argv)
{
	struct rusage usage;
	int status;
	double start;
	pid_t pid;

	if (argc < 3) {
		fprintf(stderr, "Usage: spawn PRELOAD COMMAND [ARGUMENT]...\n");
		return 2;
	}
	start = now();
	pid = fork();
	if (pid == 0)
		become(argv[1], argv + 2);
	if (pid < 0 || wait4(pid, &status, 0, &usage) != pid) {
		perror("spawn");
		return 1;
	}
	if (status) {
		fprintf(stderr, "%s: wait status %#x\n", argv[2], (unsigned int)status);
		return 1;
	}
	printf("%.6f %ld\n", now() - start, usage.ru_maxrss);
	return 0;
}
