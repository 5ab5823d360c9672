#!/bin/sh
# Instructions per item, by callgrind: `counts.sh PROGRAM [ITEMS]`, where PROGRAM is the example `counts`.
#
# Each kind of work is done for ITEMS items and for twice as many: the difference is what the items cost,
# without start and end. valgrind shows every program the same processor, so that the code which is made
# for a component is the same everywhere; the address space is too small for a pool of instances, so that
# each attempt allocates its own.
set -eu

counts=$1
items=${2:-1000}
command -v valgrind > /dev/null || { echo "counting instructions needs valgrind: install the package valgrind" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What a run of the program costs, from start to end: KIND ITEMS.
instructions() {
	folder=$(mktemp -d -p "$work")
	[ ! -d "$work/cache" ] || cp -a "$work/cache" "$folder/"
	[ "$1" = enqueue ] || "$counts" fill "$folder" "$2"
	(
		ulimit -v 33554432
		valgrind --tool=callgrind --fair-sched=yes --callgrind-out-file="$folder/counted" \
			"$counts" "$1" "$folder" "$2" > "$folder/log" 2>&1
	) || { cat "$folder/log" >&2; exit 1; }
	awk '$1 == "summary:" { print $2; exit }' "$folder/counted"
	[ ! -d "$folder/cache" ] || [ -d "$work/cache" ] || cp -a "$folder/cache" "$work/"
	rm -r "$folder"
}

# The component is compiled here, once, and taken from the cache from now on.
instructions sandbox 1 > /dev/null
for kind in enqueue native sandbox; do
	few=$(instructions "$kind" "$items")
	many=$(instructions "$kind" $((2 * items)))
	printf '%-8s %9d instructions per item\n' "$kind" $(((many - few) / items))
done
