// SPDX-License-Identifier: MIT
/*
 * A memory resource, with which the containers of C++ allocate from a heap:
 *
 *	c++ -std=c++17 cxx.cc -o cxx $(pkg-config --cflags --libs karena)
 *	./cxx <FILE
 *
 * Counts the words of standard input and prints the most frequent ones. The map and its
 * strings lie in the heap. If the heap has no memory, it throws std::bad_alloc.
 */
#include <algorithm>
#include <cstddef>
#include <exception>
#include <iostream>
#include <map>
#include <memory_resource>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include <karena/karena.h>

class heap_resource : public std::pmr::memory_resource {
public:
	explicit heap_resource(const ka_options &options)
		: heap(ka_heap_create(&options))
	{
		if (!heap)
			throw std::runtime_error(ka_error());
	}
	~heap_resource() override { ka_heap_destroy(heap); }
	heap_resource(const heap_resource &) = delete;
	heap_resource &operator=(const heap_resource &) = delete;

	bool contains(const void *address) const
	{
		return ka_heap_contains(heap, address);
	}

private:
	void *do_allocate(std::size_t size, std::size_t align) override
	{
		void *block = ka_heap_aligned_alloc(heap, align, size);

		if (!block)
			throw std::bad_alloc();
		return block;
	}
	void do_deallocate(void *block, std::size_t, std::size_t) override
	{
		if (ka_heap_free(heap, block)) {
			std::cerr << "cxx: " << ka_error() << '\n';
			std::terminate();
		}
	}
	bool do_is_equal(const memory_resource &other) const noexcept override
	{
		return this == &other;
	}

	ka_heap *heap;
};

int main()
try {
	ka_options options = KA_OPTIONS;
	options.name = "words";
	options.limit = std::size_t{64} << 20;
	heap_resource heap(options);

	std::pmr::map<std::pmr::string, long> words(&heap);
	for (std::pmr::string word(&heap); std::cin >> word;)
		words[word]++;

	std::pmr::vector<decltype(words)::const_pointer> order(&heap);
	for (const auto &word : words) {
		if (!heap.contains(&word))
			throw std::logic_error("a word is not in the heap");
		order.push_back(&word);
	}
	std::stable_sort(order.begin(), order.end(), [](auto *a, auto *b) {
		return a->second > b->second;
	});
	for (std::size_t i = 0; i < order.size() && i < 3; i++)
		std::cout << order[i]->second << ' ' << order[i]->first << '\n';
	return 0;
} catch (const std::exception &error) {
	std::cerr << "cxx: " << error.what() << '\n';
	return 1;
}
