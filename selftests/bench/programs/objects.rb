# SPDX-License-Identifier: GPL-2.0
# Objects, strings, arrays and hashes, of which most are soon garbage. Prints the KiB
# that are resident when all are gone.
Point = Struct.new(:x, :y, :name)

points = Array.new(60_000) { |i| Point.new(i, i * 7919 % 60_013, "point #{i}") }
names = points.sort_by(&:y).map { |point| point.name * 3 }
index = names.each_with_index.to_h
200_000.times do |i|
  points[i * 7919 % 60_000] = Point.new(i, i, "again #{i} and #{i * i} and once more")
end
words = names.join(" ").split(/ /)
counts = words.each_with_object(Hash.new(0)) { |word, all| all[word] += 1 }
groups = (0...40_000).group_by { |i| i % 700 }.transform_values { |all| all.map(&:to_s) }
text = +""
100_000.times { |i| text << "line #{i}\n" }
raise "wrong" unless index.size == 60_000 && counts.size > 1 && groups.size == 700 &&
                     text.lines.size == 100_000

points = names = index = words = counts = groups = text = nil
GC.start
puts File.read("/proc/self/status")[/VmRSS:\s*(\d+)/, 1]
