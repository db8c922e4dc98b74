// SPDX-License-Identifier: MIT
/*
 * The debug hooks: the errors that they detect, and the exact text of their messages. Runs
 * on the source that KARENA_SOURCE names.
 */
#include "hooks.h"

static void underflows(unsigned char *block)
{
	block[-1] = 0;
	block[-7] = 0xab;
	block = ka_mem_realloc(block, 20);
}

static void mixes_domains(unsigned char *block)
{
	ka_raw_free(block);
}

static void writes_its_letter(unsigned char *block)
{
	block[-8] = 'x';
	ka_mem_free(block);
}

static void writes_its_size(unsigned char *block)
{
	block[-9] = 17;
	ka_mem_free(block);
}

static void writes_its_serial(unsigned char *block)
{
	block[31] = 99;
	ka_mem_free(block);
}

#define BLOCK	"Debug memory block at address p=%p: API 'm'\n" \
		"    16 bytes originally requested\n"
#define GOOD_LEADING	"    The 7 pad bytes at p-7 are FORBIDDENBYTE, as expected.\n"
#define GOOD_TRAILING	"    The 8 pad bytes at tail=%p are FORBIDDENBYTE, as expected.\n"
#define SERIAL	"    The block was made by call #1 to debug malloc/realloc.\n"
#define DATA	"    Data at p: cd cd cd cd cd cd cd cd cd cd cd cd cd cd cd cd\n"

TEST(write_behind_a_block_is_a_bad_trailing_pad_byte)
{
	unsigned char *block;
	struct child child;

	begin("debug");
	block = alloc_here(16);
	child = run(overflows, block);
	EXPECT_TRUE(said(&child, format(BLOCK GOOD_LEADING
		"    The 8 pad bytes at tail=%p are not all FORBIDDENBYTE (0xfd):\n"
		"        at tail+0: 0x78 *** OUCH\n"
		"        at tail+1: 0xfd\n"
		"        at tail+2: 0xfd\n"
		"        at tail+3: 0xfd\n"
		"        at tail+4: 0xfd\n"
		"        at tail+5: 0xfd\n"
		"        at tail+6: 0xfd\n"
		"        at tail+7: 0xfd\n" SERIAL DATA TAKEN "  File \"", block, block + 16),
		"ka_mem_free: bad trailing pad byte"));
	EXPECT_TRUE(shows(&child, TAKEN, alloc_here));
	EXPECT_TRUE(shows(&child, "\nCurrent thread", overflows));
	EXPECT_EQ(NULL, strstr(child.words, GIVEN));
}

TEST(write_before_a_block_is_a_bad_leading_pad_byte)
{
	unsigned char *block;
	struct child child;

	begin("debug");
	block = alloc_here(16);
	child = run(underflows, block);
	EXPECT_TRUE(said(&child, format(BLOCK
		"    The 7 pad bytes at p-7 are not all FORBIDDENBYTE (0xfd):\n"
		"        at p-7: 0xab *** OUCH\n"
		"        at p-6: 0xfd\n"
		"        at p-5: 0xfd\n"
		"        at p-4: 0xfd\n"
		"        at p-3: 0xfd\n"
		"        at p-2: 0xfd\n"
		"        at p-1: 0x00 *** OUCH\n"
		"    Because memory is corrupted at the start, the count of bytes requested\n"
		"       may be bogus, and checking the trailing pad bytes may segfault.\n"
		GOOD_TRAILING SERIAL DATA TAKEN, block, block + 16),
		"ka_mem_realloc: bad leading pad byte"));
}

TEST(another_domain_is_a_bad_id)
{
	const char *reason;
	unsigned char *block;
	struct child child;

	begin("debug");
	block = alloc_here(16);
	child = run(mixes_domains, block);
	reason = "ka_raw_free: bad ID: Allocated using API 'm', verified using API 'r'";
	EXPECT_TRUE(said(&child, format(BLOCK GOOD_LEADING GOOD_TRAILING SERIAL DATA TAKEN,
					block, block + 16), reason));
	child = run(writes_its_letter, block);
	reason = "ka_mem_free: bad ID: Allocated using API 'x', verified using API 'm'";
	EXPECT_TRUE(said(&child, "Debug memory block at address p=", reason));
}

TEST(size_and_serial_number_are_checked)
{
	unsigned char *block;
	struct child child;

	begin("debug");
	block = alloc_here(16);
	child = run(writes_its_size, block);
	EXPECT_TRUE(said(&child, format(BLOCK GOOD_LEADING
		"    The size at p-16 is 0x11 *** OUCH\n" GOOD_TRAILING, block, block + 16),
		"ka_mem_free: bad size field"));
	child = run(writes_its_serial, block);
	EXPECT_TRUE(said(&child, format(BLOCK GOOD_LEADING GOOD_TRAILING, block, block + 16),
			 "ka_mem_free: bad serial number"));
}

static VISIBLE void frees_twice(unsigned char *block)
{
	free_here(block);
	ka_mem_free(block);
	asm volatile("");
}

static VISIBLE void reallocs_freed(unsigned char *block)
{
	free_here(block);
	ka_mem_free(ka_mem_realloc(block, 1));
	asm volatile("");
}

static VISIBLE void checks_freed(unsigned char *block)
{
	ka_debug_check(block);
	free_here(block);
	ka_debug_check(block);
	asm volatile("");
}

TEST(double_free_shows_the_first_free)
{
	static const struct {
		void (*what)(unsigned char *block);
		const char *reason;
	} cases[] = {
		{ frees_twice, "ka_mem_free: double free" },
		{ reallocs_freed, "ka_mem_realloc: the block is freed" },
		{ checks_freed, "ka_debug_check: the block is freed" },
	};
	unsigned char *block;

	begin("debug");
	block = alloc_here(16);
	for (int i = 0; i < 3; i++) {
		struct child child = run(cases[i].what, block);

		EXPECT_TRUE(said(&child, format(BLOCK
			"    It is freed, and all its bytes are DEADBYTE, as expected.\n"
			SERIAL
			"    Data at p: dd dd dd dd dd dd dd dd dd dd dd dd dd dd dd dd\n"
			TAKEN, block), cases[i].reason));
		EXPECT_TRUE(shows(&child, TAKEN, alloc_here));
		EXPECT_TRUE(shows(&child, GIVEN, free_here));
		EXPECT_TRUE(shows(&child, "\nCurrent thread", cases[i].what));
	}
}

static void frees_inside(unsigned char *block)
{
	ka_mem_free(block + 5);
}

static void frees_before(unsigned char *block)
{
	ka_mem_free(block - 16);
}

static void frees_inside_freed(unsigned char *block)
{
	ka_mem_free(block);
	ka_mem_free(ka_mem_realloc(block + 8, 1));
}

static void frees_none(unsigned char *block)
{
	(void)block;
	ka_mem_free(families[0].malloc);
}

static void checks_none(unsigned char *block)
{
	ka_debug_check(block + 1000);
}

TEST(invalid_pointer_is_reported)
{
	unsigned char *block;
	const char *reason;
	struct child child;

	begin("debug");
	block = alloc_here(16);
	child = run(frees_inside, block);
	reason = format("ka_mem_free: bad pointer: %p is 5 bytes behind the start of a block"
			" of 16 bytes", block + 5);
	EXPECT_TRUE(said(&child, format(BLOCK GOOD_LEADING, block), reason));
	EXPECT_TRUE(shows(&child, TAKEN, alloc_here));
	child = run(frees_before, block);
	reason = format("ka_mem_free: bad pointer: %p is 16 bytes before a block",
			block - 16);
	EXPECT_TRUE(said(&child, format(BLOCK, block), reason));
	child = run(frees_inside_freed, block);
	reason = format("ka_mem_realloc: bad pointer: %p is 8 bytes behind the start of a"
			" freed block of 16 bytes", block + 8);
	EXPECT_TRUE(said(&child, format(BLOCK "    It is freed, and all", block), reason));
	child = run(frees_none, block);
	EXPECT_EQ(ABORTED, child.status);
	reason = format("Fatal error: ka_mem_free: bad pointer: no block is at %p: it was"
			" never allocated here, or was freed long ago\n",
			(void *)families[0].malloc);
	EXPECT_EQ(&child.words[0], strstr(child.words, reason));
	child = run(checks_none, block);
	EXPECT_EQ(&child.words[0], strstr(child.words, "Fatal error: ka_debug_check: bad"));
}

static void writes_to_freed(unsigned char *block)
{
	free_here(block);
	block[3] = 1;
	block[-16] = 2;
	ka_debug_check_all();
}

static void lets_freed_go(unsigned char *block)
{
	free_here(block);
	block[3] = 1;
	for (int i = 0; i < 100; i++)
		ka_obj_free(ka_obj_malloc(1000));
}

static void exits_with_freed(unsigned char *block)
{
	free_here(block);
	block[3] = 1;
	exit(0);
}

static void frees_and_exits(unsigned char *block)
{
	free_here(block);
	exit(0);
}

#define OUCH_3	"    It is freed, and not all its bytes are DEADBYTE (0xdd):\n" \
		"        at p+3: 0x01 *** OUCH\n" SERIAL \
		"    Data at p: dd dd dd 01 dd dd dd dd dd dd dd dd dd dd dd dd\n"

TEST(write_to_a_freed_block_is_detected_later)
{
	unsigned char *block;
	struct child child;

	begin("debug");
	setenv("KARENA_QUARANTINE", "64K", 1);
	block = alloc_here(16);
	child = run(writes_to_freed, block);
	EXPECT_TRUE(said(&child, format(BLOCK
		"    It is freed, and not all its bytes are DEADBYTE (0xdd):\n"
		"        at p-16: 0x02 *** OUCH\n"
		"        at p+3: 0x01 *** OUCH\n" SERIAL
		"    Data at p: dd dd dd 01 dd dd dd dd dd dd dd dd dd dd dd dd\n",
		block), "ka_debug_check_all: write after free"));
	EXPECT_TRUE(shows(&child, TAKEN, alloc_here));
	EXPECT_TRUE(shows(&child, GIVEN, free_here));
	child = run(lets_freed_go, block);
	EXPECT_TRUE(said(&child, format(BLOCK OUCH_3 TAKEN, block),
			 "ka_obj_free: write after free"));
	EXPECT_TRUE(shows(&child, GIVEN, free_here));
	child = run(exits_with_freed, block);
	EXPECT_TRUE(said(&child, format(BLOCK OUCH_3 TAKEN, block),
			 "exit: write after free"));
	child = run(frees_and_exits, block);
	EXPECT_EQ(0, child.status) TH_LOG("%s", child.words);
	EXPECT_EQ(0, child.words[0]);
}

static void overflows_and_checks(unsigned char *block)
{
	block[20] = 1;
	ka_debug_check_all();
}

static void overflows_and_checks_it(unsigned char *block)
{
	block[20] = 1;
	ka_debug_check(block);
}

TEST(allocated_blocks_are_checked_on_request_and_at_exit)
{
	unsigned char *block;
	struct child child;

	begin("debug");
	block = alloc_here(16);
	child = run(overflows_and_checks, block);
	EXPECT_TRUE(said(&child, "Debug", "ka_debug_check_all: bad trailing pad byte"));
	child = run(overflows_and_checks_it, block);
	EXPECT_TRUE(said(&child, "Debug", "ka_debug_check: bad trailing pad byte"));
	child = run(overflows_and_exits, block);
	EXPECT_TRUE(said(&child, "Debug", "exit: bad trailing pad byte"));
}

static void dumps(unsigned char *block)
{
	CHECK(!ka_debug_dump(block + 3));
	CHECK(ka_debug_dump(&families) == -1 && errno == EINVAL);
}

TEST(block_can_be_dumped)
{
	unsigned char *block;
	struct child child;
	const char *dump;

	begin("debug");
	block = alloc_here(100);
	for (int i = 0; i < 100; i++)
		block[i] = (unsigned char)i;
	child = run(dumps, block);
	EXPECT_EQ(0, child.status);
	dump = format("Debug memory block at address p=%p: API 'm'\n"
		      "    100 bytes originally requested\n"
		      GOOD_LEADING GOOD_TRAILING SERIAL
		      "    Data at p: 00 01 02 03 04 05 06 07 ... 5c 5d 5e 5f 60 61 62 63\n"
		      TAKEN, block, block + 100);
	EXPECT_EQ(&child.words[0], strstr(child.words, dump));
	EXPECT_TRUE(shows(&child, TAKEN, alloc_here));
	child = run(dumps, ka_obj_malloc(0));
	EXPECT_EQ(0, child.status);
	EXPECT_EQ(NULL, strstr(child.words, "Data at p"));
	EXPECT_NE(NULL, strstr(child.words, "API 'o'\n    0 bytes originally requested\n"));
}

static void touches_freed(unsigned char *block)
{
	ka_mem_free(block);
	asm volatile("" : : "r" (*(volatile unsigned char *)block));
}

TEST(each_block_has_a_guard_page)
{
	unsigned char *block, *odd;
	struct child child;
	const char *pads;

	begin("guard");
	block = alloc_here(16);
	EXPECT_EQ(0, (uintptr_t)(block + 16) % KA_PAGE_SIZE);
	EXPECT_TRUE(all_are(block, 16, 0xcd));
	EXPECT_TRUE(all_are(block - 7, 7, 0xfd));
	child = run(touches_behind, block);
	EXPECT_EQ(128 + SIGSEGV, child.status);
	child = run(touches_freed, block);
	EXPECT_EQ(128 + SIGSEGV, child.status);
	child = run(frees_twice, block);
	EXPECT_TRUE(said(&child, format(BLOCK "    It is freed, and cannot be looked at.\n"
					SERIAL TAKEN, block), "ka_mem_free: double free"));
	child = run(underflows, block);
	EXPECT_TRUE(said(&child, format(BLOCK "    The 7 pad bytes", block),
			 "ka_mem_realloc: bad leading pad byte"));
	/* If the alignment leaves room before the guard, it has pads. */
	odd = alloc_here(13);
	EXPECT_EQ(0, (uintptr_t)odd % 16);
	EXPECT_EQ(0, (uintptr_t)(odd + 16) % KA_PAGE_SIZE);
	EXPECT_TRUE(all_are(odd + 13, 3, 0xfd));
	odd[14] = 1;
	child = run(dumps, odd);
	pads = format("    The 3 pad bytes at tail=%p are not all FORBIDDENBYTE (0xfd):\n"
		      "        at tail+0: 0xfd\n"
		      "        at tail+1: 0x01 *** OUCH\n"
		      "        at tail+2: 0xfd\n", odd + 13);
	EXPECT_NE(NULL, strstr(child.words, pads));
	odd[14] = 0xfd;
	odd = ka_mem_realloc(odd, 5000);
	EXPECT_TRUE(all_are(odd, 5000, 0xcd));
	EXPECT_EQ(0, (uintptr_t)(odd + 5008) % KA_PAGE_SIZE);
	ka_mem_free(odd);
	odd = ka_mem_malloc(0);
	EXPECT_TRUE(all_are(odd, 16, 0xfd));
	ka_mem_free(odd);
}

static void *frees_twice_and_is_cancelled(void *data)
{
	/* The cancellation stays pending; only a cancellation point acts on it. */
	pthread_cancel(pthread_self());
	ka_mem_free(data);
	ka_mem_free(data);
	return NULL;
}

static void lets_a_thread_free_twice(unsigned char *block)
{
	pthread_t thread;

	pthread_create(&thread, NULL, frees_twice_and_is_cancelled, block);
	pthread_join(thread, NULL);
	ka_mem_malloc(1);
}

TEST(cancelled_thread_still_reports_an_error)
{
	struct child child;

	begin("debug");
	child = run(lets_a_thread_free_twice, alloc_here(16));
	EXPECT_EQ(ABORTED, child.status);
	EXPECT_NE(NULL, strstr(child.words, "\nFatal error: ka_mem_free: double free\n"));
}

TEST_HARNESS_MAIN
