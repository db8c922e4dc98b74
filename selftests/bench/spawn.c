// SPDX-License-Identifier: GPL-2.0
/*
 * Run a program with a preload ("" for none), and print after its output the seconds it
 * took and the peak of resident memory, in KiB, of the program or a program that it ran.
 * This program is small, because that peak starts with the memory of the process that
 * forks.
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
	/* A signal to this program alone must end both. */
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
