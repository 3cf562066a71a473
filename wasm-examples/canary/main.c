// canary is a resolver: acme.example.com is the tenant acme, and some of the
// tenants get another release of the application.
//
// Its configuration is canary, the name of that release, and percent, how many
// of a hundred tenants get it, 0 by default. A tenant stays on its side as long
// as percent does, and one that is in with 10 is in with 20.
#include "../c/atc.h"

static char request_room[ATC_TEXT], config_room[ATC_TEXT], attributes[ATC_TEXT];

// side spreads tenants evenly over 0 to 99: FNV-1a, with its upper half mixed in.
static unsigned side(text id) {
	unsigned long long hash = 14695981039346656037ULL;
	for (int i = 0; i < id.len; i++) hash = (hash ^ (unsigned char)id.at[i]) * 1099511628211ULL;
	return (unsigned)((hash ^ hash >> 32) & 0xffffffff) % 100;
}

ATC_EXPORT("resolve") int resolve(void) {
	text request = {request_room, atc_request(request_room, ATC_TEXT)};
	text config = {config_room, atc_config(config_room, ATC_TEXT)};
	text none = {"", 0};

	text id = value(request, none, TEXT("host"));
	for (int i = 0; i < id.len; i++)
		if (id.at[i] == '.' || id.at[i] == ':') id.len = i;
	int n = atc_tenant(id.at, id.len, attributes, ATC_TEXT);
	if (n < 0) return unknown(n);

	text release = value(config, none, TEXT("canary"));
	text percent = value(config, none, TEXT("percent"));
	unsigned limit = 0;
	for (int i = 0; i < percent.len && percent.at[i] >= '0' && percent.at[i] <= '9' && limit <= 100; i++)
		limit = limit * 10 + (percent.at[i] - '0');

	put_line(TEXT("tenant"), id);
	if (release.len && side(id) < limit) put_line(TEXT("app"), release);
	put(TEXT("cache: host 60\n"));
	return decide();
}
