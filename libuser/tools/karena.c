// SPDX-License-Identifier: MIT
/*
 * karena: the tool. Its only command, run, starts a program whose language runtime
 * allocates its memory from karena.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <karena/karena.h>

/* The same exit statuses as those of env(1) and timeout(1). */
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
	"Run COMMAND with the memory of its Python in a heap of karena. Programs\n"
	"that COMMAND starts use karena, too. Programs other than CPython run\n"
	"unchanged.\n"
	"\n"
	"  -s, --source=SOURCE  source of the memory:\n"
	"                       device    the kernel module, or fail\n"
	"                       embedded  plain mmap, which needs no module\n"
	"                       auto      device if it works, else embedded (default)\n"
	"  -l, --limit=SIZE     maximum size of the heap, at least 2M; at the limit\n"
	"                       Python allocates by plain mmap or, with domains,\n"
	"                       raises MemoryError (default: the window)\n"
	"  -w, --window=SIZE    address space of the heap (default: 1T, or 64G on\n"
	"                       the module)\n"
	"  -n, --name=NAME      name of the heap in sysfs (default: the command)\n"
	"  -p, --python=WHAT    memory of Python that the heap provides:\n"
	"                       arena    the arenas of pymalloc (default)\n"
	"                       domains  all blocks, by karena's own allocator;\n"
	"                                setting PYTHONMALLOC undoes this\n"
	"  -h, --help           print this text\n"
	"  -V, --version        print the version\n"
	"\n"
	"A SIZE is a number of bytes, or a number with a suffix K, M, G or T.\n"
	"The options set the variables KARENA_SOURCE, KARENA_LIMIT, KARENA_WINDOW,\n"
	"KARENA_NAME and KARENA_PYTHON, which you can set instead.\n"
	"\n"
	"While COMMAND runs on the module, /sys/class/misc/karena/heaps/* has\n"
	"statistics of the heap.\n"
	"\n"
	"os.fork() works: the child has a copy of the heap. The kernel copies a\n"
	"page when parent or child writes to it.\n"
	"\n"
	"Exit status: that of COMMAND; 125 if karena fails, 126 if COMMAND cannot\n"
	"be run, 127 if COMMAND is not found.\n";

static _Noreturn void __attribute__((format(printf, 1, 2))) fail(const char *format, ...)
{
	va_list arguments;

	fputs("karena: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
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
		fail("cannot set %s: out of memory", name);
}

/* True if a folder, relative to another one, has the adapter. */
static bool has_adapter(char path[static PATH_MAX], const char *base, const char *folder)
{
	return snprintf(path, PATH_MAX, "%s%s/" ADAPTER, base, folder) < PATH_MAX &&
	       !access(path, R_OK);
}

/* The path of LIBDIR from the folder of PREFIX, with "/"; NULL if LIBDIR is not there. */
static const char *libdir_in_prefix(void)
{
	size_t length = strlen(KARENA_PREFIX);

	return strncmp(KARENA_LIBDIR, KARENA_PREFIX "/", length + 1) ? NULL :
	       &KARENA_LIBDIR[length];
}

/*
 * Find the adapter. The tool's own folder comes first, since the tree of the installation may
 * have been moved; there the libraries are in ../LIBDIR or, in a build tree, in ../lib.
 */
static const char *find_adapter(char path[static PATH_MAX])
{
	char self[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - sizeof("/.."));
	const char *libdir = libdir_in_prefix();

	if (length > 0) {
		self[length] = 0;
		memcpy(strrchr(self, '/'), "/..", sizeof("/.."));
		if ((libdir && has_adapter(path, self, libdir)) ||
		    has_adapter(path, self, "/lib"))
			return path;
	}
	if (has_adapter(path, "", KARENA_LIBDIR))
		return path;
	fail("cannot find the adapter %s: install karena again", path);
}

static void preload(const char *library)
{
	const char *old = getenv("LD_PRELOAD");
	char *both;

	if (strpbrk(library, " :"))
		fail("the path of the adapter, '%s', has a space or a colon, which"
		     " LD_PRELOAD does not allow: install karena elsewhere", library);
	if (!old || !*old) {
		set_variable("LD_PRELOAD", library);
		return;
	}
	if (asprintf(&both, "%s:%s", library, old) < 0)
		fail("cannot set LD_PRELOAD: out of memory");
	set_variable("LD_PRELOAD", both);
	free(both);
}

/* Report settings that are invalid before COMMAND starts; it would fail or ignore them. */
static void try_heap(void)
{
	struct ka_heap *heap = ka_heap_create(NULL);

	if (!heap)
		fail("cannot create a heap: %s", ka_error());
	ka_heap_destroy(heap);
}

static void check_python(const char *setting, const char *what)
{
	if (strcmp(what, "arena") != 0 && strcmp(what, "domains") != 0)
		fail("%s: unknown value '%s' (choose arena or domains)", setting, what);
}

/* Python reads PYTHONMALLOC after the adapter has run, and then uses its own allocators. */
static void check_environment(void)
{
	const char *what = getenv("KARENA_PYTHON"), *other = getenv("PYTHONMALLOC");

	if (!what || !*what)
		return;
	check_python("KARENA_PYTHON", what);
	if (!strcmp(what, "domains") && other && *other)
		fprintf(stderr, "karena: PYTHONMALLOC=%s undoes KARENA_PYTHON=domains:"
			" unset it to run Python on karena\n", other);
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

/* The library finds the other errors in a size; this message names the option. */
static void set_size(const char *option, const char *variable, const char *text)
{
	size_t digits = strspn(text, "0123456789");
	const char *end = text + digits;
	bool is_zero = strspn(text, "0") == digits;

	if (*text && (is_zero || (*end && (!strchr("KMGTkmgt", *end) || end[1]))))
		fail("%s: invalid size '%s' (examples: 512M, 2G)", option, text);
	set_variable(variable, text);
}

static void set_source(const char *text)
{
	if (*text && strcmp(text, "device") != 0 && strcmp(text, "embedded") != 0 &&
	    strcmp(text, "auto") != 0)
		fail("--source: unknown source '%s' (choose device, embedded or auto)",
		     text);
	set_variable("KARENA_SOURCE", text);
}

static void set_name(const char *text)
{
	for (const char *c = text; *c; c++) {
		if (*c < ' ' || *c > '~' || *c == '/')
			fail("--name: invalid name '%s' (use printable ASCII without"
			     " '/')", text);
	}
	if (strlen(text) >= KA_NAME_SIZE)
		fail("--name: '%s' is too long (at most %d characters)", text,
		     KA_NAME_SIZE - 1);
	set_variable("KARENA_NAME", text);
}

static void set_python(const char *text)
{
	if (*text)
		check_python("--python", text);
	set_variable("KARENA_PYTHON", text);
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

/* Stops at the first word that is not an option. */
static void parse_options(int argc, char **argv)
{
	int option;

	while ((option = getopt_long(argc, argv, "+s:l:w:n:p:hV", options, NULL)) !=
	       -1) {
		switch (option) {
		case 's':
			set_source(optarg);
			break;
		case 'l':
			set_size("--limit", "KARENA_LIMIT", optarg);
			break;
		case 'w':
			set_size("--window", "KARENA_WINDOW", optarg);
			break;
		case 'n':
			set_name(optarg);
			break;
		case 'p':
			set_python(optarg);
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
		fputs("karena: run: no COMMAND (example: karena run python3 program.py)\n",
		      stderr);
		usage();
	}
	check_environment();
	name_heap(*argv);
	try_heap();
	preload(find_adapter(path));
	execvp(*argv, argv);
	fprintf(stderr, "karena: cannot run '%s': %s\n", *argv, strerror(errno));
	exit(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_RUN);
}

int main(int argc, char **argv)
{
	/* getopt() begins its messages with this name, also behind "run". */
	argv[0] = program_invocation_short_name;
	if (argc > 1 && !strcmp(argv[1], "run")) {
		argv[1] = argv[0];
		run(argc - 1, argv + 1);
	}
	parse_options(argc, argv);
	if (argc > optind)
		fprintf(stderr, "karena: unknown command '%s' (to run a program: karena"
			" run %s)\n", argv[optind], argv[optind]);
	else
		fputs("karena: no command (to run a program: karena run COMMAND)\n",
		      stderr);
	usage();
}
