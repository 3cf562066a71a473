//! The ABI atc_v1 for resolvers in Rust, without the standard library: what atc
//! gives a guest, and a few functions on texts. A resolver takes it in with
//! `#[path = "../rust/guest.rs"] mod guest;` and is built with
//!
//!   rustc --edition 2021 --target wasm32-unknown-unknown --crate-type cdylib \
//!     -O -C panic=abort -C strip=symbols -C link-arg=-zstack-size=65536 -o resolver.wasm main.rs
//!
//! A resolver this small gets a fresh instance for each request, so that its
//! statics begin as they are written here.
#![allow(dead_code)]

mod host {
    #[link(wasm_import_module = "atc_v1")]
    extern "C" {
        pub fn request(out: *mut u8, cap: usize) -> i32;
        pub fn decide(text: *const u8, len: usize);
        pub fn tenant(id: *const u8, len: usize, out: *mut u8, cap: usize) -> i32;
        pub fn machines(out: *mut u8, cap: usize) -> i32;
        pub fn config(out: *mut u8, cap: usize) -> i32;
        pub fn log(level: i32, text: *const u8, len: usize);
    }
}

/// The longest text in either direction.
pub const TEXT: usize = 65536;

static mut REQUEST: [u8; TEXT] = [0; TEXT];
static mut CONFIG: [u8; TEXT] = [0; TEXT];
static mut MACHINES: [u8; TEXT] = [0; TEXT];
static mut TENANT: [u8; TEXT] = [0; TEXT];
static mut DECISION: [u8; TEXT] = [0; TEXT];

// Each room is written by one call of the host, in the one thread there is, and
// only read after it.
pub fn request() -> &'static [u8] {
    unsafe { filled(&REQUEST, host::request(REQUEST.as_mut_ptr(), TEXT)) }
}

pub fn config() -> &'static [u8] {
    unsafe { filled(&CONFIG, host::config(CONFIG.as_mut_ptr(), TEXT)) }
}

/// One line a machine: id, region, load, state.
pub fn machines() -> &'static [u8] {
    unsafe { filled(&MACHINES, host::machines(MACHINES.as_mut_ptr(), TEXT)) }
}

/// Why there are no attributes.
pub enum Missing {
    NoTenant,
    NobodyKnows,
}

/// The attributes of a tenant, until the next question.
pub fn tenant(id: &[u8]) -> Result<&'static [u8], Missing> {
    match unsafe { host::tenant(id.as_ptr(), id.len(), TENANT.as_mut_ptr(), TEXT) } {
        -1 => Err(Missing::NoTenant),
        n if n < 0 => Err(Missing::NobodyKnows),
        n => Ok(unsafe { filled(&TENANT, n) }),
    }
}

fn filled(room: &'static [u8], n: i32) -> &'static [u8] {
    room.get(..n as usize).unwrap_or(b"")
}

pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&c| c == b'\n').filter(|line| !line.is_empty())
}

/// The value of the first line "<key>: value".
pub fn value<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    lines(text).find_map(|line| line.strip_prefix(key)?.strip_prefix(b": "))
}

/// A host name without its port and the dot that ends a full name.
pub fn hostname(host: &[u8]) -> &[u8] {
    let name = host.split(|&c| c == b':').next().unwrap_or(b"");
    name.strip_suffix(b".").unwrap_or(name)
}

/// The decision that is being written.
pub struct Decision {
    len: usize,
}

impl Decision {
    pub fn new() -> Self {
        Decision { len: 0 }
    }

    /// Adds one line. What does not fit is left out, and the host refuses it.
    pub fn line(mut self, key: &[u8], value: &[u8]) -> Self {
        for part in [key, b": ", value, b"\n"] {
            for &c in part {
                if self.len < TEXT {
                    unsafe { DECISION[self.len] = c };
                    self.len += 1;
                }
            }
        }
        self
    }

    /// Hands it over; the value is for resolve to return.
    pub fn decide(self) -> i32 {
        unsafe { host::decide(DECISION.as_ptr(), self.len) };
        0
    }
}

/// Answers for a tenant that could not be looked up.
pub fn unknown(why: Missing) -> i32 {
    match why {
        Missing::NoTenant => answer(b"404", b"There is no such tenant."),
        Missing::NobodyKnows => Decision::new()
            .line(b"set-header.retry-after", b"1")
            .line(b"status", b"503")
            .line(b"body", b"The list of tenants cannot be read at the moment.")
            .decide(),
    }
}

pub fn answer(status: &[u8], body: &[u8]) -> i32 {
    Decision::new().line(b"status", status).line(b"body", body).decide()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}
