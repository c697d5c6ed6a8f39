// Errors, settings and versions.

function showErrors() {
  const body = byId("errors-body");
  if (!data.errors.length) {
    body.append(el("p", { class: "note" }, "No pair failed."));
    return;
  }
  body.append(el("p", { class: "note" }, "A pair that failed is skipped the next time. To try these again, run the same command with ", el("code", {}, "--retry-errors"), "."));
  for (const { name, count: number, examples } of data.errors) {
    body.append(
      el("div", { class: "panel failure" },
        el("h3", {}, el("code", {}, name), ` ${count(number, "pair")}`),
        el("ul", {}, examples.map(({ id, message }) => {
          const pair = column.id?.indexOf(id) ?? -1;
          const named = pair < 0 ? el("b", {}, id) : el("button", { type: "button", class: "plain", click: () => openDetail(pair) }, id);
          return el("li", {}, named, el("span", {}, message));
        })),
        number > examples.length
          ? el("button", { type: "button", click: () => showOnly(`error:${name}`) }, "Show all of them")
          : null),
    );
  }
}

function showOnly(status) {
  setFilters({ status });
  byId("gallery-title").focus();
  byId("gallery").scrollIntoView();
}

function showSettings() {
  const changed = data.settings.filter((setting) => setting.default !== null);
  const others = data.settings.filter((setting) => setting.default === null);
  const name = (setting) => el("code", { title: setting.help }, setting.name);
  const { job } = data;
  const started = Date.parse(job.started_at) / 1000;
  const body = byId("settings-body");
  if (changed.length) {
    body.append(el("div", { class: "panel scroll" }, table("Settings that differ from the defaults", ["Setting", "Value", "Default", "Meaning"],
      changed.map((setting) => [name(setting), setting.value, setting.default, setting.help]))));
  }
  body.append(el("details", {}, el("summary", {}, changed.length ? "Show the settings left at their defaults" : "Show all settings; they are at their defaults"),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Settings at their defaults" },
      table("At their defaults", ["Setting", "Value", "Meaning"],
        others.map((setting) => [name(setting), setting.value, setting.help])))));
  const versions = data.versions.flatMap(({ versions: each, count: number }) =>
    Object.entries(each).map(([key, value]) => [
      data.versions.length > 1 ? `${key} (${count(number, "pair")})` : key, value ?? "none"]));
  body.append(el("div", { class: "panel split" },
    el("div", {}, el("h3", {}, "Made with"), facts([
      ...data.weights.map((weights) => ["Network's weights", `${weights.name} (digest ${weights.digest.slice(0, 16)})`]),
      ...data.devices.map(([device, number]) => ["Device", `${device}, ${count(number, "pair")}`]),
      ["List of pairs (manifest)", job.manifest],
      ["Last started", started ? time(started) : job.started_at],
      ["Fingerprint", job.fingerprint && [`${job.fingerprint} `, el("span", { class: "soft" }, "the same for the same settings")]],
    ])),
    el("div", {}, el("h3", {}, "Versions of the programs"), facts(versions))));
}
