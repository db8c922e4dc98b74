// SPDX-License-Identifier: MIT
/*
 * karena: the tool. It has one command, run, which starts a program with its
 * runtime's memory on karena.
 */
#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <karena/karena.h>

/* As env(1) and timeout(1) have it. */
enum {
	EXIT_KARENA	= 125,
	EXIT_NOT_RUN	= 126,
	EXIT_NOT_FOUND	= 127,
};

#define ADAPTER	"karena/libkarena-cpython.so"

static const char help[] =
	"Usage: karena run [OPTION]... COMMAND [ARGUMENT]...\n"
	"       karena --help | --version\n"
	"\n"
	"Start COMMAND with the memory of its Python on karena. Programs that\n"
	"it starts get the same; those that are no CPython are left alone.\n"
	"\n"
	"  -s, --source=SOURCE  device:   the kernel module, or fail\n"
	"                       embedded: plain mmap, no module needed\n"
	"                       auto:     device if it works, else embedded\n"
	"  -l, --limit=SIZE     memory that the heap may have at most; beyond\n"
	"                       it, Python turns to malloc, or with domains\n"
	"                       has a MemoryError\n"
	"  -w, --window=SIZE    address space of the heap (64G)\n"
	"  -n, --name=NAME      the heap's name in sysfs (the command's)\n"
	"  -p, --python=WHAT    arena:   pymalloc's arenas (the default)\n"
	"                       domains: all blocks of Python, by karena's own\n"
	"                       allocator; PYTHONMALLOC undoes it\n"
	"  -h, --help           this text\n"
	"  -V, --version        the version\n"
	"\n"
	"A SIZE is bytes, or has a suffix K, M, G or T. The options set the\n"
	"variables KARENA_SOURCE, KARENA_LIMIT, KARENA_WINDOW, KARENA_NAME and\n"
	"KARENA_PYTHON, which can be set instead.\n"
	"\n"
	"While COMMAND runs, see /sys/class/misc/karena/heaps/*.\n"
	"\n"
	"Fork: a child has a copy of the heap, made as the two write; so\n"
	"os.fork() and all that is built on it work.\n"
	"\n"
	"Exit status: COMMAND's; 125 if karena fails, 126 if COMMAND cannot\n"
	"be run, 127 if it is not found.\n";

static _Noreturn void fail(const char *sentence)
{
	fprintf(stderr, "karena: %s\n", sentence);
	exit(EXIT_KARENA);
}

static _Noreturn void usage(void)
{
	fputs("Try 'karena --help'.\n", stderr);
	exit(EXIT_KARENA);
}

static void set_variable(const char *name, const char *value)
{
	if (setenv(name, value, 1))
		fail("no memory for the environment");
}

/* Beside the tool, as in the build tree and below a prefix, or where installed. */
static const char *find_adapter(char path[static PATH_MAX])
{
	char self[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (length > 0) {
		self[length] = 0;
		if (snprintf(path, PATH_MAX, "%s/../lib/" ADAPTER, dirname(self)) <
		    PATH_MAX && !access(path, R_OK))
			return path;
	}
	if (snprintf(path, PATH_MAX, "%s/" ADAPTER, KARENA_LIBDIR) < PATH_MAX &&
	    !access(path, R_OK))
		return path;
	fail("there is no adapter " KARENA_LIBDIR "/" ADAPTER
	     ": install karena again");
}

static void preload(const char *library)
{
	const char *old = getenv("LD_PRELOAD");
	char *both;

	if (strpbrk(library, " :"))
		fail("the adapter's path has a space or a colon in it, which"
		     " LD_PRELOAD cannot express");
	if (!old || !*old) {
		set_variable("LD_PRELOAD", library);
		return;
	}
	if (asprintf(&both, "%s:%s", library, old) < 0)
		fail("no memory for the environment");
	set_variable("LD_PRELOAD", both);
	free(both);
}

/* Find out here, in one sentence, what the program would find out later. */
static void try_heap(void)
{
	struct ka_heap *heap = ka_heap_create(NULL);

	if (!heap)
		fail(ka_error());
	ka_heap_destroy(heap);
}

/* Python looks at PYTHONMALLOC after the adapter, and takes its own allocators. */
static void check_python(void)
{
	const char *what = getenv("KARENA_PYTHON"), *other = getenv("PYTHONMALLOC");

	if (!what || !*what || !strcmp(what, "arena"))
		return;
	if (strcmp(what, "domains") != 0)
		fail("Python's arena or domains can be on karena, nothing else");
	if (other && *other)
		fprintf(stderr, "karena: PYTHONMALLOC=%s takes Python's domains back"
			" from karena\n", other);
}

static void name_heap(const char *command)
{
	char name[KA_NAME_SIZE];
	const char *base = strrchr(command, '/');

	if (getenv("KARENA_NAME"))
		return;
	snprintf(name, sizeof(name), "%s", base ? base + 1 : command);
	for (char *c = name; *c; c++) {
		if (*c < ' ' || *c > '~')
			*c = '?';
	}
	set_variable("KARENA_NAME", name);
}

static const struct option options[] = {
	{ "source",	required_argument,	NULL, 's' },
	{ "limit",	required_argument,	NULL, 'l' },
	{ "window",	required_argument,	NULL, 'w' },
	{ "name",	required_argument,	NULL, 'n' },
	{ "python",	required_argument,	NULL, 'p' },
	{ "help",	no_argument,		NULL, 'h' },
	{ "version",	no_argument,		NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

/* Options up to the first word that is none. */
static void parse_options(int argc, char **argv)
{
	int option;

	while ((option = getopt_long(argc, argv, "+s:l:w:n:p:hV", options, NULL)) !=
	       -1) {
		switch (option) {
		case 's':
			set_variable("KARENA_SOURCE", optarg);
			break;
		case 'l':
			set_variable("KARENA_LIMIT", optarg);
			break;
		case 'w':
			set_variable("KARENA_WINDOW", optarg);
			break;
		case 'n':
			set_variable("KARENA_NAME", optarg);
			break;
		case 'p':
			set_variable("KARENA_PYTHON", optarg);
			break;
		case 'h':
			fputs(help, stdout);
			exit(0);
		case 'V':
			printf("karena %s\n", ka_version());
			exit(0);
		default:
			usage();
		}
	}
}

static _Noreturn void run(int argc, char **argv)
{
	char path[PATH_MAX];

	parse_options(argc, argv);
	argv += optind;
	if (!*argv) {
		fputs("karena: run needs a command\n", stderr);
		usage();
	}
	check_python();
	name_heap(*argv);
	try_heap();
	preload(find_adapter(path));
	execvp(*argv, argv);
	fprintf(stderr, "karena: cannot run %s: %s\n", *argv, strerror(errno));
	exit(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_RUN);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "run"))
		run(argc - 1, argv + 1);
	parse_options(argc, argv);
	if (argc > optind)
		fprintf(stderr, "karena: there is no command %s\n", argv[optind]);
	else
		fputs("karena: no command given\n", stderr);
	usage();
}
