-- SPDX-License-Identifier: GPL-2.0
-- Trees, strings and tables that grow; what is old is collected meanwhile. Prints the
-- KiB that are resident when all are gone.
local function tree(depth)
	if depth == 0 then
		return {}
	end
	return { tree(depth - 1), tree(depth - 1) }
end

local function count(node)
	return node[1] and 1 + count(node[1]) + count(node[2]) or 1
end

local kept = tree(14)
for _ = 1, 20 do
	assert(count(tree(12)) == 8191)
end

local words, parts = {}, {}
for i = 1, 150000 do
	local word = "word" .. i * 7919 % 50021
	words[word] = (words[word] or 0) + 1
	parts[#parts + 1] = word
	if #parts == 500 then
		words[table.concat(parts, " ")] = 1
		parts = {}
	end
end

local closures = {}
for i = 1, 100000 do
	closures[i % 20000 + 1] = function() return i end
end
assert(count(kept) == 32767 and words.word1 and closures[1]() > 0)

kept, words, parts, closures = nil, nil, nil, nil
collectgarbage()
collectgarbage()
print(io.open("/proc/self/status"):read("a"):match("VmRSS:%s*(%d+)"))
