// The ABI atc_v1 for resolvers in C, without a C library: what atc gives a
// guest, and a few functions on texts. Build with
//
//   clang --target=wasm32 -nostdlib -ffreestanding -O2 -Wl,--no-entry -Wl,--strip-all -o resolver.wasm main.c
//
// A resolver this small gets a fresh instance for each request, so that its
// variables begin as they are written here.
#pragma once

#define ATC_IMPORT(name) __attribute__((import_module("atc_v1"), import_name(name)))
#define ATC_EXPORT(name) __attribute__((export_name(name)))

ATC_IMPORT("request") int atc_request(char *out, int cap);
ATC_IMPORT("decide") void atc_decide(const char *text, int len);
ATC_IMPORT("tenant") int atc_tenant(const char *id, int len, char *out, int cap);
ATC_IMPORT("machines") int atc_machines(char *out, int cap);
ATC_IMPORT("config") int atc_config(char *out, int cap);
ATC_IMPORT("log") void atc_log(int level, const char *text, int len);

enum { ATC_TEXT = 65536 }; // the longest text in either direction

// text is a piece of memory; at is 0 where there is none.
typedef struct {
	const char *at;
	int len;
} text;

#define TEXT(literal) ((text){literal, sizeof(literal) - 1})

static int same(text a, text b) {
	if (a.len != b.len) return 0;
	for (int i = 0; i < a.len; i++)
		if (a.at[i] != b.at[i]) return 0;
	return 1;
}

static int begins(text a, text b) { return a.len >= b.len && same((text){a.at, b.len}, b); }

// next_line takes the first line off a text.
static text next_line(text *rest) {
	text line = {rest->at, 0};
	while (line.len < rest->len && line.at[line.len] != '\n') line.len++;
	int skip = line.len + (line.len < rest->len);
	rest->at += skip;
	rest->len -= skip;
	return line;
}

// value is that of the first line "<prefix><key>: value".
static text value(text lines, text prefix, text key) {
	while (lines.len > 0) {
		text line = next_line(&lines);
		if (!begins(line, prefix)) continue;
		text rest = {line.at + prefix.len, line.len - prefix.len};
		if (!begins(rest, key)) continue;
		rest.at += key.len, rest.len -= key.len;
		if (begins(rest, TEXT(": "))) return (text){rest.at + 2, rest.len - 2};
	}
	return (text){0, 0};
}

// The decision that is being written. What does not fit is cut, and then refused
// by the host.
static char decision[ATC_TEXT];
static int decided;

static void put(text t) {
	for (int i = 0; i < t.len && decided < ATC_TEXT; i++) decision[decided++] = t.at[i];
}

static void put_line(text key, text v) {
	put(key), put(TEXT(": ")), put(v), put(TEXT("\n"));
}

// decide hands the decision over; its value is for resolve to return.
static int decide(void) {
	atc_decide(decision, decided);
	return 0;
}

// answer decides a status and one line of explanation.
static int answer(text status, text body) {
	put_line(TEXT("status"), status);
	put_line(TEXT("body"), body);
	return decide();
}

// unknown answers for what atc_tenant returned below 0.
static int unknown(int code) {
	if (code == -1) return answer(TEXT("404"), TEXT("There is no such tenant."));
	put(TEXT("set-header.retry-after: 1\n"));
	return answer(TEXT("503"), TEXT("The list of tenants cannot be read at the moment."));
}
