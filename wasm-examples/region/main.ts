// region is a resolver: acme.example.com is the tenant acme, which runs in its
// home region, or elsewhere while nothing lives there.
//
// The home is the tenant's attribute region, or the line home.<tenant> of the
// configuration. Without one, or without a machine of it that takes work, the
// tenant is started on the least busy machine of the region that is asked, or of
// all.
import { config, decide, machines, request, tenant, unknown, value } from "../assemblyscript/atc";

export function resolve(): i32 {
  const asked = request();
  let id = value(asked, "host").split(":")[0].split(".")[0];
  const attributes = tenant(id);
  if (attributes === null) return unknown();

  let home = value(attributes, "region");
  if (home == "") home = value(config(), "home." + id);
  const here = value(asked, "region");
  let best = "", bestAway = 3, bestLoad: f64 = 0;
  const lines = machines().split("\n");
  for (let i = 0; i < lines.length; i++) {
    const fields = lines[i].split(" ");
    if (fields.length != 4 || fields[3] != "started") continue;
    const away = fields[1] == home ? 0 : fields[1] == here ? 1 : 2;
    const load = parseFloat(fields[2]);
    if (away < bestAway || (away == bestAway && load < bestLoad)) {
      best = fields[0];
      bestAway = away;
      bestLoad = load;
    }
  }
  let decision = "tenant: " + id + "\ncache: host 5\n";
  if (best != "" && bestAway == 0) decision += "region: " + home + "\n";
  if (best != "") decision += "prefer: " + best + "\n";
  return decide(decision);
}
