// The ABI atc_v1 for resolvers in AssemblyScript: what atc gives a guest, as
// strings. Build with
//
//   asc main.ts -O3 --runtime incremental --use abort= -o resolver.wasm
//
// A resolver this small gets a fresh instance for each request, so that its
// variables begin as they are written here.

@external("atc_v1", "request") declare function hostRequest(out: usize, cap: i32): i32;
@external("atc_v1", "decide") declare function hostDecide(text: usize, len: i32): void;
@external("atc_v1", "tenant") declare function hostTenant(id: usize, len: i32, out: usize, cap: i32): i32;
@external("atc_v1", "machines") declare function hostMachines(out: usize, cap: i32): i32;
@external("atc_v1", "config") declare function hostConfig(out: usize, cap: i32): i32;
@external("atc_v1", "log") declare function hostLog(level: i32, text: usize, len: i32): void;

const CAP: i32 = 65536; // the longest text in either direction
const room: usize = memory.data(65536);

export function request(): string {
  return String.UTF8.decodeUnsafe(room, <usize>hostRequest(room, CAP));
}

export function config(): string {
  return String.UTF8.decodeUnsafe(room, <usize>hostConfig(room, CAP));
}

/** One line a machine: id, region, load, state. */
export function machines(): string {
  return String.UTF8.decodeUnsafe(room, <usize>hostMachines(room, CAP));
}

/** The attributes of a tenant; null where there are none, with `code` saying why. */
export function tenant(id: string): string | null {
  const bytes = String.UTF8.encode(id);
  code = hostTenant(changetype<usize>(bytes), bytes.byteLength, room, CAP);
  return code < 0 ? null : String.UTF8.decodeUnsafe(room, <usize>code);
}

/** What tenant returned: -1 no such tenant, -2 nobody can tell at the moment. */
export let code: i32 = 0;

export function log(level: i32, message: string): void {
  const bytes = String.UTF8.encode(message);
  hostLog(level, changetype<usize>(bytes), bytes.byteLength);
}

/** Hands the decision over; the value is for resolve to return. */
export function decide(lines: string): i32 {
  const bytes = String.UTF8.encode(lines);
  hostDecide(changetype<usize>(bytes), bytes.byteLength);
  return 0;
}

/** Answers for a tenant that could not be looked up. */
export function unknown(): i32 {
  return code == -1
    ? decide("status: 404\nbody: There is no such tenant.\n")
    : decide("status: 503\nset-header.retry-after: 1\nbody: The list of tenants cannot be read at the moment.\n");
}

/** The value of the first line "<key>: value", or "". */
export function value(text: string, key: string): string {
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; i++) {
    if (lines[i].startsWith(key + ": ")) return lines[i].substring(key.length + 2);
  }
  return "";
}
