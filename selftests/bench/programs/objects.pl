# SPDX-License-Identifier: GPL-2.0
# Hashes, strings, and structures of references. Prints the KiB that are resident when
# all are gone.
use strict;
use warnings;

my (%count, @records);
for my $i (1 .. 150000) {
	my $name = "name " . $i * 7919 % 30011;
	$count{$name}++;
	$records[$i % 20000] = { name => $name, list => [$i, $i * $i, "$name $i"] };
}
my @sorted = sort { $a->{name} cmp $b->{name} } @records;
my $text = join "\n", map { "$_->{name}: @{$_->{list}}" } @sorted;
my @fields = map { [split /[: ]+/] } split /\n/, $text;
my %index = map { $fields[$_][1] => $_ } 0 .. $#fields;
my $long = "";
$long .= substr($text, $_ * 7 % 100000, 40) for 1 .. 50000;
(my $other = $text) =~ s/(\d+)/<$1>/g;
die "wrong" unless keys %count == 30011 && @fields == 20000 && keys %index &&
	length $long == 2000000 && length $other > length $text;

undef @records; undef @sorted; undef @fields;
undef %count; undef %index;
undef $text; undef $long; undef $other;
open my $status, "<", "/proc/self/status" or die $!;
print /VmRSS:\s*(\d+)/ ? "$1\n" : "" for <$status>;
