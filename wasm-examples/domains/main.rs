//! domains is a resolver: a table says which tenant a host name belongs to.
//!
//! Its configuration is the table, and default, the tenant for host names that
//! are not in it, by default none:
//!
//!   [policy.config]
//!   "shop.example.org" = "acme"
//!   "www.shop.example.org" = "acme"
#![no_std]
#![no_main]

#[path = "../rust/guest.rs"]
mod guest;

use guest::{answer, config, hostname, request, tenant, unknown, value, Decision};

#[no_mangle]
pub extern "C" fn resolve() -> i32 {
    let mut room = [0u8; 253]; // the longest host name
    let sent = hostname(value(request(), b"host").unwrap_or(b""));
    let host = match room.get_mut(..sent.len()) {
        Some(lower) => {
            lower.copy_from_slice(sent);
            lower.make_ascii_lowercase();
            &*lower
        }
        None => b"",
    };
    // A key holds no ':', so no host name can reach into a value. "default" is a
    // host name too, of nobody.
    let table = config();
    let found = if host == b"default" { None } else { value(table, host) };
    let id = match found.or_else(|| value(table, b"default")) {
        Some(id) => id,
        None => return answer(b"404", b"This host name is not served here."),
    };
    match tenant(id) {
        Ok(_) => Decision::new().line(b"tenant", id).line(b"cache", b"host 60").decide(),
        Err(why) => unknown(why),
    }
}
