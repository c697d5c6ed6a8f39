// Charts as SVG at the width of their place, drawn again when it changes.

const HEIGHT = 260;
const MARGIN = { top: 12, right: 14, bottom: 34, left: 52 };

function responsive(host, draw) {
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.floor(host.clientWidth);
    if (now === width || now < 40) return;
    width = now;
    host.replaceChildren(draw(width));
  }).observe(host);
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
    for (const digit of high - low < 2.5 ? [1, 2, 5] : [1]) {
      const value = digit * 10 ** power;
      if (Math.log10(value) >= low - 1e-9 && Math.log10(value) <= high + 1e-9) ticks.push(value);
    }
  }
  return ticks;
}

function evenTicks(most, wanted) {
  const raw = most / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((digit) => digit * power >= raw) * power;
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, index) => index * step);
}

function frame(width, label, xTicks, yTicks, xText, yText, xTitle) {
  const right = width - MARGIN.right;
  const bottom = HEIGHT - MARGIN.bottom;
  return svg(
    "svg",
    { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label },
    yTicks.map(([value, y]) => [
      svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y, y2: y }),
      svg("text", { class: "tick", x: MARGIN.left - 8, y: y + 4, "text-anchor": "end" }, yText(value)),
    ]),
    xTicks.map(([value, x]) =>
      svg("text", { class: "tick", x, y: bottom + 18, "text-anchor": "middle" }, xText(value)),
    ),
    svg("line", { class: "axis", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }),
    svg("text", { class: "tick title", x: right, y: HEIGHT - 2, "text-anchor": "end" }, xTitle),
  );
}

// Loss over evaluations. line: [[x, y], ...]; band: [[x, low, high], ...] or null.
function lossChart(host, { line, band, label, format, readout }) {
  const values = [...line.map(([, y]) => y), ...(band ?? []).flatMap(([, low, high]) => [low, high])];
  const logs = values.filter((value) => value > 0).map(Math.log10);
  const low = Math.min(...logs);
  const high = Math.max(...logs, low + 0.05);
  const most = line[line.length - 1][0];
  responsive(host, (width) => {
    const right = width - MARGIN.right;
    const bottom = HEIGHT - MARGIN.bottom;
    const toX = (value) => MARGIN.left + ((value - 1) / Math.max(most - 1, 1)) * (right - MARGIN.left);
    const toY = (value) =>
      bottom - ((Math.log10(value) - low) / (high - low)) * (bottom - MARGIN.top);
    const path = (points) => points.map(([x, y]) => `${toX(x).toFixed(1)},${toY(y).toFixed(1)}`).join("L");
    const xTicks = evenTicks(most, Math.max(2, width / 110)).map((value) => Math.max(1, value));
    const chart = frame(
      width,
      label,
      xTicks.map((value) => [value, toX(value)]),
      logTicks(low, high).map((value) => [value, toY(value)]),
      (value) => whole.format(value),
      format,
      "evaluations",
    );
    if (band) {
      const upper = band.map(([x, , top]) => [x, top]);
      const lower = band.map(([x, under]) => [x, under]).reverse();
      chart.append(svg("path", { class: "band", d: `M${path(upper)}L${path(lower)}Z` }));
    }
    chart.append(svg("path", { class: "line", d: `M${path(line)}` }));
    const cross = svg("line", { class: "cross", y1: MARGIN.top, y2: bottom, hidden: true });
    const dot = svg("circle", { class: "dot", r: 4, hidden: true });
    chart.append(cross, dot);
    chart.addEventListener("pointermove", (event) => {
      const at = event.clientX - chart.getBoundingClientRect().left;
      const nearest = line.reduce((best, point, index) =>
        Math.abs(toX(point[0]) - at) < Math.abs(toX(line[best][0]) - at) ? index : best, 0);
      const [x, y] = line[nearest];
      fill(cross, { x1: toX(x), x2: toX(x) }, []).removeAttribute("hidden");
      fill(dot, { cx: toX(x), cy: toY(y) }, []).removeAttribute("hidden");
      readout(nearest);
    });
    chart.addEventListener("pointerleave", () => {
      cross.setAttribute("hidden", "");
      dot.setAttribute("hidden", "");
      readout(null);
    });
    return chart;
  });
}

// Pairs finished over time, runs side by side with a gap between them.
function throughputChart(host, { width: stretch, runs }, label) {
  const bars = runs.flatMap((run, number) =>
    run.ok.map((ok, index) => ({
      ok,
      error: run.error[index],
      start: run.start + index * stretch,
      run: number,
    })),
  );
  const perHour = Math.max(...bars.map(({ ok, error }) => ok + error)) * 60 < stretch;
  const rate = (number) => (number * (perHour ? 3600 : 60)) / stretch;
  const most = Math.max(...bars.map(({ ok, error }) => rate(ok + error)));
  const many = bars[bars.length - 1].start - bars[0].start > 86400;
  const format = new Intl.DateTimeFormat("en-GB", {
    ...(many ? { day: "numeric", month: "short" } : {}),
    hour: "2-digit",
    minute: "2-digit",
    ...(stretch < 60 ? { second: "2-digit" } : {}),
  });
  responsive(host, (width) => {
    const inner = width - MARGIN.left - MARGIN.right;
    const gap = 14;
    const step = Math.min(120, (inner - gap * (runs.length - 1)) / bars.length);
    const bottom = HEIGHT - MARGIN.bottom;
    const toX = (index) => MARGIN.left + index * step + bars[index].run * gap;
    const toY = (value) => bottom - (value / most) * (bottom - MARGIN.top);
    const every = Math.max(1, Math.ceil((many ? 110 : 80) / step));
    const xTicks = bars
      .map(({ start }, index) => [start, toX(index) + step / 2, index])
      .filter(([, , index]) => index % every === 0);
    const chart = frame(
      width,
      label,
      xTicks,
      evenTicks(most, 4).map((value) => [value, toY(value)]),
      (value) => format.format(new Date(1000 * value)),
      (value) => plain.format(value),
      "",
    );
    bars.forEach(({ ok, error, start }, index) => {
      const parts = [
        ["bar", 0, rate(ok)],
        ["bar error", rate(ok), rate(ok + error)],
      ];
      const title = `${format.format(new Date(1000 * start))}: ${ok} done, ${error} errors`;
      for (const [name, from, to] of parts) {
        if (to === from) continue;
        const size = { x: toX(index) + 0.5, y: toY(to), width: Math.max(1, step - 1) };
        chart.append(
          svg("rect", { class: name, ...size, height: toY(from) - toY(to) }, svg("title", {}, title)),
        );
      }
    });
    return chart;
  });
  return perHour ? "pairs per hour" : "pairs per minute";
}
