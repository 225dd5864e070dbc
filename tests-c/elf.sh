#!/bin/bash
# What the shared library LIB needs and what it shows. Symbols of others inside of it must stay inside.
set -uo pipefail
: "${LIB:?}" "${HEADER:?}"
if nm -D --undefined-only "$LIB" | grep -q __asan_; then
  echo 'skip elf: a library with the address sanitizer needs other things'
  exit 0
fi
failed=0 passed=0
report() { # report NAME REASON: no reason = passed
  set -- "$1" "$(head -c 400 <<< "$2")"
  if [ -z "$2" ]; then passed=$((passed + 1)); echo "ok $1"; else failed=$((failed + 1)); echo "FAIL $1: $2"; fi
}
here=$(dirname "$(realpath "$0")")
shown=$(nm -D --defined-only "$LIB" | awk '{ print $3 }' | sed 's/@.*//' | sort)
required=$(sed -n 's/^PROTOTYPE(\([a-z_]*\),.*/\1/p' "$here/prototypes.h" | sort)

report exports_only_dqlitepy "$(grep -v '^dqlitepy_[a-z0-9_]*$' <<< "$shown" | tr '\n' ' ')"
report exports_the_25 "$(comm -23 <(echo "$required") <(echo "$shown") | tr '\n' ' ')"
[ "$(wc -l <<< "$required")" = 25 ] || report prototypes "prototypes.h does not list 25 functions"

declared=$(tr -d '\n' < "$HEADER" | grep -o 'dqlitepy_[a-z0-9_]*(' | tr -d '(' | sort -u)
report header_declares_what_is_exported "$(diff <(echo "$shown") <(echo "$declared") | grep '^[<>]' | tr '\n' ' ')"

needed=$(readelf -d "$LIB" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
report needs_only_the_c_library "$(grep -vE '^(libc\.so\.6|libm\.so\.6|libgcc_s\.so\.1|ld-linux-.*\.so\..*)$' <<< "$needed" | tr '\n' ' ')"

# Built on Debian 12 the newest symbol is of glibc 2.34; a newer system brings newer ones, which is its own business.
newest=$(objdump -T "$LIB" | grep -oE 'GLIBC_[0-9.]+' | sort -u -t. -k1,1V -k2,2n | sed 's/GLIBC_//' | sort -V | tail -1)
limit=2.34
[ "$(sed -n 's/^VERSION_ID="\(.*\)"/\1/p' /etc/os-release)" = 12 ] || limit=$(getconf GNU_LIBC_VERSION | awk '{ print $2 }')
report "glibc_$newest" "$([ "$(printf '%s\n' "$limit" "$newest" | sort -V | tail -1)" = "$limit" ] || echo "newer than $limit")"

report has_soname "$(readelf -d "$LIB" | grep -q 'SONAME.*libdqlitepy\.so' || echo 'no SONAME libdqlitepy.so...')"
report is_never_unloaded "$(readelf -d "$LIB" | grep -q NODELETE || echo 'not linked -z nodelete')"
report no_executable_stack "$(readelf -lW "$LIB" | awk '/GNU_STACK/ && $7 ~ /E/ { print "the stack is executable" }')"
report no_text_relocations "$(readelf -d "$LIB" | grep TEXTREL)"
report no_paths_in_it "$(readelf -d "$LIB" | grep -E 'RPATH|RUNPATH')"

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
