#!/bin/sh
# Instructions for each item, counted by callgrind: `counts.sh PROGRAM [ITEMS]`. PROGRAM is the example `counts`.
#
# The script runs each kind of work for ITEMS items and for twice as many. The difference is the cost of the items,
# without the start and the end of the program. valgrind simulates the same processor on every machine, so the code
# that is compiled for a component is the same everywhere. The limit on the address space is too small for a pool of
# instances, so each attempt allocates its own instance.
set -eu

counts=$1
items=${2:-1000}
command -v valgrind > /dev/null || { echo "counting instructions needs valgrind: install the package valgrind" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Prints the instructions of one whole run of the program: KIND ITEMS.
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

# This first run compiles the component; all later runs take the code from the cache.
instructions sandbox 1 > /dev/null
for kind in enqueue native sandbox; do
	few=$(instructions "$kind" "$items")
	many=$(instructions "$kind" $((2 * items)))
	printf '%-8s %9d instructions per item\n' "$kind" $(((many - few) / items))
done
