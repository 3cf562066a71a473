// header is a resolver: the header X-Tenant names the tenant, or an API key
// leads to it.
//
// Its configuration is header, "x-tenant" by default, and one line key.<key> for
// each API key, whose value is the tenant. With a key the header's value is one,
// perhaps behind "Bearer ":
//
//   [policy.config]
//   header = "authorization"
//   "key.k3yOfAcme" = "acme"
#include "../c/atc.h"

static char request_room[ATC_TEXT], config_room[ATC_TEXT], attributes[ATC_TEXT];

ATC_EXPORT("resolve") int resolve(void) {
	text request = {request_room, atc_request(request_room, ATC_TEXT)};
	text config = {config_room, atc_config(config_room, ATC_TEXT)};
	text none = {"", 0};

	text header = value(config, none, TEXT("header"));
	if (!header.len) header = TEXT("x-tenant");
	text id = value(request, TEXT("header."), header);

	int keys = 0;
	for (text rest = config; rest.len > 0;) keys |= begins(next_line(&rest), TEXT("key."));
	if (keys) {
		if (begins(id, TEXT("Bearer "))) id.at += 7, id.len -= 7;
		id = id.len ? value(config, TEXT("key."), id) : none;
		if (!id.len) {
			put(TEXT("set-header.www-authenticate: Bearer\n"));
			return answer(TEXT("401"), TEXT("Send your API key."));
		}
	}
	if (!id.len) {
		put(TEXT("status: 404\nbody: No tenant: send the header "));
		put(header), put(TEXT(".\n"));
		return decide();
	}
	int n = atc_tenant(id.at, id.len, attributes, ATC_TEXT);
	if (n < 0) return unknown(n);
	put_line(TEXT("tenant"), id);
	put(TEXT("cache: header.")), put(header), put(TEXT(" 60\n"));
	return decide();
}
