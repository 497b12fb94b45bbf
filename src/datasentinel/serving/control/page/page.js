// Shows what the server does now: asks /live once a second for what is new, and draws it.

const WINDOW_MS = 120_000;
const MAX_ANOMALIES = 100;

const byId = (id) => document.getElementById(id);
const models = new Map(); // By name and version: what is drawn of it, and its samples.
const transports = new Map(); // By name: its counts in the last event.
let cursor = "";
let token = sessionStorage.getItem("token") ?? "";
let last = null; // The last event.

// ------------------------------------------------------------------------------------------ asking

function headers() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function nextEvent() {
  const reply = await fetch(`live?after=${cursor}`, { headers: headers(), signal: AbortSignal.timeout(10_000) });
  if (reply.status === 401) return askForToken();
  if (!reply.ok) throw new Error(`the server answers ${reply.status}`);
  const text = await reply.text();
  const data = /^data: (.*)$/m.exec(text);
  const pause = /^retry: (\d+)$/m.exec(text);
  show(JSON.parse(data[1]));
  return Number(pause[1]);
}

function askForToken() {
  token = "";
  byId("login").hidden = false;
  byId("view").hidden = true;
  setState("locked", "bad");
  return new Promise((resolve) => {
    byId("login").onsubmit = (submitted) => {
      submitted.preventDefault();
      token = byId("token").value.trim();
      sessionStorage.setItem("token", token);
      byId("login").hidden = true;
      resolve(0);
    };
  });
}

async function run() {
  for (;;) {
    let pause = 1000;
    try {
      pause = await nextEvent();
    } catch (problem) {
      setState(problem instanceof TypeError ? "no connection" : problem.message, "bad");
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

// ------------------------------------------------------------------------------------------ showing

function setState(text, kind) {
  const state = byId("state");
  if (state.textContent !== text) state.textContent = text; // A screen reader reads every change.
  state.className = kind;
}

function show(event) {
  byId("view").hidden = false;
  setState(event.ready ? "ready" : "draining", event.ready ? "good" : "bad");
  const failed = event.reloads.failed ? `, ${event.reloads.failed} failed` : "";
  byId("about").textContent =
    `version ${event.version}, up ${duration(event.uptime_s)}, ${event.reloads.ok} reloads${failed}`;
  const seconds = last && event.uptime_s > last.uptime_s ? event.uptime_s - last.uptime_s : 0;
  showModels(event, seconds);
  showProtocols(event, seconds);
  showDrift(event);
  rows("backends", event.backends, (backend) => [
    cell(backend.name),
    cell(backend.state, backend.state === "available" ? "good" : ""),
    cell(backend.detail),
  ]);
  cursor = event.cursor;
  last = event;
}

function showModels(event, seconds) {
  const current = new Set();
  for (const model of event.models) {
    const key = `${model.name}/${model.version}`;
    current.add(key);
    let shown = models.get(key);
    if (!shown) {
      shown = { card: modelCard(model), samples: [], rows: model.rows };
      models.set(key, shown);
      byId("models").append(shown.card);
      const option = element("option", key);
      option.value = key;
      byId("try-model").append(option);
    }
    shown.samples.push(...model.samples);
    const start = event.time_ms - WINDOW_MS;
    shown.samples = shown.samples.filter((sample) => sample.time_ms >= start);
    const rate = seconds ? Math.max(0, model.rows - shown.rows) / seconds : 0;
    shown.rows = model.rows;
    fillCard(shown, model, rate);
    draw(shown, model, event.time_ms);
    addAnomalies(model, model.samples.filter((sample) => sample.anomaly));
  }
  for (const [key, shown] of models) {
    if (current.has(key)) continue;
    shown.card.remove();
    models.delete(key);
    for (const option of byId("try-model").options) if (option.value === key) option.remove();
  }
}

function modelCard(model) {
  const card = document.createElement("article");
  card.append(element("h2", `${model.name}, version ${model.version}${model.default ? " (default)" : ""}`));
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  const facts = document.createElement("p");
  facts.className = "facts";
  card.append(canvas, facts);
  return card;
}

function fillCard({ card }, model, rate) {
  const plan = model.plan.length > 1
    ? model.plan.map(([least, backend]) => `${backend} from ${least} rows`).join(", ")
    : (model.plan[0]?.[1] ?? model.backend);
  const facts = [
    ["rows/s", count(rate)],
    ["rows", count(model.rows)],
    ["anomalies", count(model.anomalies)],
    ["threshold", number(model.threshold)],
    ["runs on", plan],
  ];
  card.querySelector(".facts").replaceChildren(
    ...facts.map(([name, value]) => {
      const fact = element("span", `${name} `);
      fact.append(element("b", value));
      return fact;
    }),
  );
}

function draw({ card, samples }, model, now) {
  const canvas = card.querySelector("canvas");
  const anomalies = samples.filter((sample) => sample.anomaly).length;
  canvas.setAttribute(
    "aria-label",
    `Scores of the last two minutes: ${samples.length} sampled, ${anomalies} of them above the threshold`,
  );
  const scale = devicePixelRatio;
  const width = (canvas.width = Math.round(canvas.clientWidth * scale));
  const height = (canvas.height = Math.round(canvas.clientHeight * scale));
  const pen = canvas.getContext("2d");
  const inColour = (name) => {
    // Canvas does not know light-dark(); an element's colour is resolved.
    card.style.color = `var(${name})`;
    const resolved = getComputedStyle(card).color;
    card.style.color = "";
    return resolved;
  };
  // Logarithmic, with the threshold at two thirds of the height.
  const threshold = Math.log10(Math.max(model.threshold, 1e-9));
  const logs = samples.map((sample) => Math.log10(Math.max(sample.score, 1e-9)));
  const top = Math.max(threshold + 1, ...logs) + 0.1;
  const bottom = Math.max(threshold - 4, Math.min(threshold - 1, ...logs)) - 0.1;
  const y = (log) => height - ((Math.max(log, bottom) - bottom) / (top - bottom)) * height;
  const x = (time) => width - ((now - time) / WINDOW_MS) * width;
  pen.font = `${11 * scale}px sans-serif`;
  pen.strokeStyle = pen.fillStyle = inColour("--anomaly");
  pen.setLineDash([4 * scale, 4 * scale]);
  pen.beginPath();
  pen.moveTo(0, y(threshold));
  pen.lineTo(width, y(threshold));
  pen.stroke();
  pen.fillText(`threshold ${number(model.threshold)}`, 4 * scale, y(threshold) - 4 * scale);
  const normal = inColour("--normal");
  const anomalous = inColour("--anomaly");
  samples.forEach((sample, i) => {
    const size = (sample.anomaly ? 4 : 2) * scale;
    pen.fillStyle = sample.anomaly ? anomalous : normal;
    pen.fillRect(x(sample.time_ms) - size / 2, y(logs[i]) - size / 2, size, size);
  });
}

function addAnomalies(model, samples) {
  const body = byId("anomalies").tBodies[0];
  for (const sample of samples) {
    const row = document.createElement("tr");
    row.append(
      cell(new Date(sample.time_ms).toLocaleTimeString()),
      cell(models.size > 1 ? `${model.name}/${model.version}` : model.name),
      cell(number(sample.score), "number bad"),
      cell(sample.p_value === undefined ? "" : number(sample.p_value), "number"),
      cell(sample.reasons ? sample.reasons.map(reasonText).join(", ") : ""),
    );
    body.prepend(row);
  }
  while (body.rows.length > MAX_ANOMALIES) body.lastChild.remove();
}

function reasonText({ feature, value, expected }) {
  const usual = expected === null || expected === undefined ? "" : ` (expected ${number(expected)})`;
  return `${feature} = ${number(value)}${usual}`;
}

function showProtocols(event, seconds) {
  rows("protocols", event.transports, (transport) => {
    const before = seconds ? transports.get(transport.name) : undefined;
    const counts = transport.latency_counts.map((n, i) => n - (before?.latency_counts[i] ?? 0));
    const rate = (name) => (before ? count(Math.max(0, transport[name] - before[name]) / seconds) : "");
    transports.set(transport.name, transport);
    return [
      cell(transport.name),
      cell(rate("requests"), "number"),
      cell(rate("rows"), "number"),
      cell(latency(counts, event.latency_bounds_s, 0.5), "number"),
      cell(latency(counts, event.latency_bounds_s, 0.99), "number"),
      cell(count(transport.errors), transport.errors ? "number bad" : "number"),
      cell(transport.connections ?? "", "number"),
    ];
  });
}

function latency(counts, bounds, share) {
  const total = counts.reduce((sum, n) => sum + n, 0);
  if (total <= 0) return "";
  let reached = 0;
  for (let i = 0; i < counts.length; ++i) {
    reached += counts[i];
    if (reached < share * total) continue;
    if (i === bounds.length) return `> ${microseconds(bounds[i - 1])}`;
    return `≤ ${microseconds(bounds[i])}`;
  }
  return "";
}

function showDrift(event) {
  const parts = [];
  for (const model of event.models) {
    if (!model.drift?.columns.length) continue;
    if (event.models.length > 1) parts.push(element("h3", `${model.name}/${model.version}`));
    for (const { name, psi, state } of model.drift.columns) {
      const bar = document.createElement("div");
      bar.className = "bar";
      const meter = document.createElement("meter");
      Object.assign(meter, { min: 0, max: 0.5, low: 0.1, high: 0.25, optimum: 0, value: Math.min(psi, 0.5) });
      meter.setAttribute("aria-label", `${name}: ${state}`);
      const kind = { drifted: "bad", shifting: "warning" }[state] ?? "";
      bar.append(element("span", name), meter, element("span", `${state}, PSI ${psi.toFixed(2)}`, kind));
      parts.push(bar);
    }
  }
  if (!parts.length) parts.push(element("p", "Known once 500 rows have been scored.", "empty"));
  byId("drift").replaceChildren(...parts);
}

// ------------------------------------------------------------------------------------------ scoring

async function scoreRow(submitted) {
  submitted.preventDefault();
  const result = byId("try-result");
  const model = last?.models.find((one) => `${one.name}/${one.version}` === byId("try-model").value);
  const values = byId("try-row").value.trim().split(/[\s,;]+/).map(Number);
  result.className = "";
  if (!model) return;
  if (values.length !== model.input_dim || values.some((value) => !Number.isFinite(value))) {
    result.className = "bad";
    const names = model.features.length ? `: ${model.features.join(", ")}` : "";
    result.textContent = `${model.input_dim} numbers are needed${names}; these are ${values.length}.`;
    return;
  }
  const wanted = ["score", "anomaly", "output", "contributions"].filter((name) => model.outputs.includes(name));
  try {
    const path = [model.name, "versions", model.version].map(encodeURIComponent).join("/");
    const reply = await fetch(`v2/models/${path}/infer`, {
      method: "POST",
      headers: { ...headers(), "Content-Type": "application/json" },
      body: JSON.stringify({
        inputs: [{ name: "input", datatype: "FP32", shape: [1, values.length], data: values }],
        outputs: wanted.map((name) => ({ name })),
      }),
    });
    const answer = await reply.json();
    if (!reply.ok) throw new Error(answer.error);
    const found = Object.fromEntries(answer.outputs.map(({ name, data }) => [name, data]));
    const verdict = found.anomaly[0] ? "an anomaly" : "normal";
    const why = (found.contributions ?? [])
      .map((part, i) => ({
        part,
        feature: model.features[i] ?? `x${i}`,
        value: values[i],
        expected: found.output?.[i],
      }))
      .sort((a, b) => b.part - a.part)
      .slice(0, 3)
      .map(reasonText);
    result.className = found.anomaly[0] ? "bad" : "good";
    result.textContent =
      `Score ${number(found.score[0])}, threshold ${number(model.threshold)}: ${verdict}.` +
      (why.length ? ` Most of it is from ${why.join(", ")}.` : "");
  } catch (problem) {
    result.className = "bad";
    result.textContent = problem.message;
  }
}

// ------------------------------------------------------------------------------------------ texts

function element(tag, text, kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function cell(text, kind) {
  return element("td", text, kind);
}

function rows(table, items, cells) {
  const made = items.map((item) => {
    const row = document.createElement("tr");
    row.append(...cells(item));
    return row;
  });
  byId(table).tBodies[0].replaceChildren(...made);
}

function number(value) {
  if (value === null) return "";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return Number(value.toPrecision(4)).toLocaleString("en");
}

function count(value) {
  return Math.round(value).toLocaleString("en");
}

function microseconds(seconds) {
  return seconds < 1e-3 ? `${Math.round(seconds * 1e6)} µs` : seconds < 1 ? `${seconds * 1e3} ms` : `${seconds} s`;
}

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

byId("try").onsubmit = scoreRow;
run();
