"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const percent = (value) => (value === null ? "–" : (100 * value).toFixed(1));
  const svg = (name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };

  let palette = data.palettes.dataset;
  let order = [];       // indices into data.frames, as shown
  let position = 0;     // place in order
  let shown = null;     // decoded class maps of the frame on screen
  let timer = null;

  const UNKNOWN_POINT = 0xFFFF - 1;
  const color = (place) => (place < 0 ? [0, 0, 0] : place === UNKNOWN_POINT ? [255, 215, 0] : palette[place]);
  const css = (place) => `rgb(${color(place).join(",")})`;
  const className = (place) => (place < 0 ? "void" : data.classes[place].name);

  const load = (uri) => new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("a picture of this report is damaged"));
    image.src = uri;
  });

  const pixels = async (uri) => {
    const image = await load(uri);
    const canvas = document.createElement("canvas");
    canvas.width = image.width;
    canvas.height = image.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, image.width, image.height);
  };

  // Red and green hold 1 + place of the class, blue the brightness of outlines and rings.
  const decode = async (uri) => {
    const { data: raw, width, height } = await pixels(uri);
    const places = new Int32Array(width * height);
    const outline = new Uint8Array(width * height);
    for (let i = 0; i < places.length; i += 1) {
      places[i] = raw[4 * i] + 256 * raw[4 * i + 1] - 1;
      outline[i] = raw[4 * i + 2];
    }
    return { width, height, places, outline };
  };

  const paint = (canvas, map) => {
    canvas.width = map.width;
    canvas.height = map.height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(map.width, map.height);
    for (let i = 0; i < map.places.length; i += 1) {
      const [r, g, b] = map.outline[i] ? Array(3).fill(map.outline[i]) : color(map.places[i]);
      image.data.set([r, g, b, 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
  };

  const paintUnknown = (canvas, frame, image, unknown) => {
    canvas.width = frame.width;
    canvas.height = frame.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.filter = "grayscale(1) brightness(0.55)";
    if (image) context.drawImage(image, 0, 0);
    context.filter = "none";
    if (!unknown) return false;
    const bits = unknown.data;
    const below = context.getImageData(0, 0, frame.width, frame.height);
    const style = getComputedStyle(document.documentElement);
    const hex = (name) => style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
    const colors = [null, hex("--missed"), hex("--extra"), hex("--found")];
    for (let i = 0; i < bits.length; i += 4) {
      if (bits[i]) below.data.set([...colors[bits[i]], 255], i);
    }
    context.putImageData(below, 0, 0);
    return true;
  };

  const legend = () => {
    const present = new Set([...shown.truth.places, ...shown.prediction.places]);
    const items = [...present].filter((place) => place >= 0).sort((a, b) => a - b).map((place) => {
      const item = document.createElement("li");
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = css(place);
      item.append(swatch, className(place));
      return item;
    });
    byId("legend").replaceChildren(...items);
  };

  const repaint = () => {
    for (const side of ["truth", "prediction"]) {
      paint(document.querySelector(`#view-${side} canvas`), shown[side]);
      const points = shown.points[side];
      byId(`view-${side}-points`).hidden = !points;
      if (points) paint(document.querySelector(`#view-${side}-points canvas`), points);
    }
    legend();
  };

  const show = async (place) => {
    position = Math.max(0, Math.min(order.length - 1, place));
    const frame = data.frames[order[position]];
    const slider = byId("slider");
    slider.value = position;
    slider.setAttribute("aria-valuetext", `${position + 1} of ${order.length}: ${frame.name}`);
    const decodeIfAny = (uri) => (uri ? decode(uri) : null);
    const [truth, prediction, image, unknown, ...points] = await Promise.all([
      decode(frame.truth), decode(frame.prediction), frame.image ? load(frame.image) : null,
      frame.unknown ? pixels(frame.unknown) : null,
      decodeIfAny(frame.truthPoints), decodeIfAny(frame.predictionPoints),
    ]);
    // Another frame has been chosen since; from here on nothing waits, so that none comes between.
    if (frame !== data.frames[order[position]]) return;
    shown = { truth, prediction, points: { truth: points[0], prediction: points[1] } };
    repaint();
    const view = document.querySelector("#view-image canvas");
    view.width = frame.width;
    view.height = frame.height;
    if (image) view.getContext("2d").drawImage(image, 0, 0);
    byId("view-image").hidden = !image;
    byId("view-unknown").hidden = !paintUnknown(document.querySelector("#view-unknown canvas"), frame, image, unknown);
    const recall = frame.unknown_recall === undefined ? "" :
      `, unknown found ${percent(frame.unknown_recall)} %, known lost ${percent(frame.known_pixels_lost)} %`;
    byId("caption").textContent = `${position + 1} of ${order.length}: ${frame.name}, PQ ${percent(frame.PQ)} %, ` +
      `${frame.tp} found, ${frame.fp} invented, ${frame.fn} missed${recall}`;
    for (const [name, side] of [["truth", "Truth"], ["prediction", "Prediction"]]) {
      document.querySelector(`#view-${name} canvas`).setAttribute("aria-label", `${side} of ${frame.name}`);
      document.querySelector(`#view-${name}-points canvas`).setAttribute("aria-label", `${side} of the points of ${frame.name}, from above`);
    }
    for (const button of byId("film").querySelectorAll("button")) {
      if (Number(button.dataset.frame) === order[position]) {
        button.setAttribute("aria-current", "true");
        const strip = byId("film");
        strip.scrollLeft = button.offsetLeft - strip.offsetLeft - strip.clientWidth / 2 + button.clientWidth / 2;
      } else {
        button.removeAttribute("aria-current");
      }
    }
    document.body.dataset.frame = frame.name;
  };

  const sort = () => {
    const frames = data.frames.map((frame, index) => index);
    const quality = (index) => data.frames[index].PQ ?? Infinity;
    order = byId("order").value === "worst" ? frames.sort((a, b) => quality(a) - quality(b) || a - b) : frames;
    const film = byId("film");
    const buttons = new Map([...film.children].map((item) => [Number(item.firstChild.dataset.frame), item]));
    film.replaceChildren(...order.map((index) => buttons.get(index)));
  };

  const thumbnails = async () => {
    await Promise.all(data.frames.map(async (frame, index) => {
      const canvas = byId("film").querySelector(`button[data-frame="${index}"] canvas`);
      if (frame.image) {
        const image = await load(frame.image);
        canvas.width = 128;
        canvas.height = Math.round(128 * frame.height / frame.width);
        canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      } else {
        paint(canvas, await decode(frame.prediction));
      }
    }));
  };

  const fill = () => {
    data.frames.forEach((frame, index) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.frame = index;
      const name = document.createElement("span");
      name.textContent = frame.name;
      const quality = document.createElement("span");
      quality.textContent = `PQ ${percent(frame.PQ)} %`;
      button.append(document.createElement("canvas"), name, quality);
      button.addEventListener("click", () => show(order.indexOf(index)));
      item.append(button);
      byId("film").append(item);
    });
  };

  const play = (start) => {
    clearInterval(timer);
    timer = start ? setInterval(() => show((position + 1) % order.length), 600) : null;
    byId("play").setAttribute("aria-pressed", String(start));
    byId("play").textContent = start ? "Pause" : "Play";
  };

  const probe = (name) => {
    const canvas = document.querySelector(`#view-${name} canvas`);
    let x = 0;
    let y = 0;
    const tell = () => {
      const map = shown[name];
      x = Math.max(0, Math.min(map.width - 1, x));
      y = Math.max(0, Math.min(map.height - 1, y));
      const at = y * map.width + x;
      const truth = className(shown.truth.places[at]);
      const prediction = className(shown.prediction.places[at]);
      byId("probe").textContent = `Column ${x}, row ${y}: truth ${truth}, prediction ${prediction}`;
    };
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      x = Math.floor((event.clientX - box.left) / box.width * canvas.width);
      y = Math.floor((event.clientY - box.top) / box.height * canvas.height);
      tell();
    });
    canvas.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 1 : 16;
      const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
      if (!move) return;
      event.preventDefault();
      x += move[0];
      y += move[1];
      tell();
      repaint();
      const context = canvas.getContext("2d");
      context.strokeStyle = "#fff";
      context.lineWidth = 2;
      context.strokeRect(x - 6, y - 6, 12, 12);
    });
  };

  const plot = (title, times, values, marks, marksTitle, linked) => {
    const width = 1200;
    const height = 190;
    const [left, right, top, bottom] = [48, 12, 12, 26];
    const known = values.filter((value) => value !== null);
    const highest = known.length ? Math.max(...known) : 1;
    const limit = linked ? 1 : highest * 1.05 || 1;
    const first = Math.min(...times, ...marks);
    const last = Math.max(...times, ...marks, first + 1e-9);
    const x = (time) => left + (time - first) / (last - first) * (width - left - right);
    const y = (value) => height - bottom - value / limit * (height - top - bottom);
    const lowest = known.length ? Math.min(...known) : 0;
    const text = linked ? `${title}: ${percent(lowest)} to ${percent(highest)} %` :
      `${title}: ${lowest.toFixed(1)} to ${highest.toFixed(1)}${marks.length ? `, ${marks.length} ${marksTitle}` : ""}`;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": text });
    for (const share of [0, 0.5, 1]) {
      const level = share * limit;
      root.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: y(level), y2: y(level) }));
      root.append(svg("text", { x: left - 6, y: y(level) + 4, "text-anchor": "end" }, linked ? `${100 * level} %` : level.toFixed(limit < 10 ? 1 : 0)));
    }
    const ends = linked ? ["first frame", "last frame"] : [`${first.toFixed(1)} s`, `${last.toFixed(1)} s`];
    root.append(svg("text", { x: left, y: height - 8 }, ends[0]));
    root.append(svg("text", { x: width - right, y: height - 8, "text-anchor": "end" }, ends[1]));
    let path = "";
    values.forEach((value, index) => {
      if (value === null) return;
      const pen = index === 0 || values[index - 1] === null ? "M" : "L";
      path += `${pen}${x(times[index]).toFixed(1)} ${y(value).toFixed(1)}`;
    });
    root.append(svg("path", { class: "curve", d: path }));
    for (const mark of marks) {
      const line = svg("line", { class: "mark", x1: x(mark), x2: x(mark), y1: height - bottom, y2: height - bottom - 22 });
      line.append(svg("title", {}, `${marksTitle} at ${mark.toFixed(2)} s`));
      root.append(line);
    }
    if (linked) {
      values.forEach((value, index) => {
        if (value === null) return;
        const place = data.frames.findIndex((frame) => frame.name === linked[index]);
        const dot = svg("circle", { class: place < 0 ? "dot" : "dot link", cx: x(times[index]), cy: y(value), r: place < 0 ? 1.5 : 4 });
        dot.append(svg("title", {}, `${linked[index]}: PQ ${percent(value)} %`));
        if (place >= 0) dot.addEventListener("click", () => show(order.indexOf(place)));
        root.append(dot);
      });
    }
    const heading = document.createElement("h3");
    heading.textContent = text;
    byId("plots").append(heading, root);
  };

  const sortTable = (button) => {
    const table = byId("classes");
    const head = button.closest("th");
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = button.dataset.key.toLowerCase();
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const [first, second] = [a.dataset[key], b.dataset[key]];
      if (key === "name") return first.localeCompare(second);
      return (first === "" ? Infinity : Number(first)) - (second === "" ? Infinity : Number(second));
    });
    body.replaceChildren(...(down ? rows.reverse() : rows));
  };

  const swatches = () => {
    for (const swatch of document.querySelectorAll("#classes .swatch")) {
      swatch.style.background = css(Number(swatch.dataset.class));
    }
  };

  byId("palette").addEventListener("change", (event) => {
    palette = data.palettes[event.target.value];
    swatches();
    if (shown) repaint();
    document.body.dataset.palette = event.target.value;
  });
  for (const button of document.querySelectorAll("#classes thead button")) {
    button.addEventListener("click", () => sortTable(button));
  }
  swatches();
  const numbers = data.quality.map((_, index) => index);
  plot("PQ by frame", numbers, data.quality.map((row) => row.PQ), [], "", data.quality.map((row) => row.name));
  for (const series of data.series) plot(series.title, series.times, series.values, series.marks, series.marksTitle, null);

  if (data.frames.length) {
    byId("previous").addEventListener("click", () => show(position - 1));
    byId("next").addEventListener("click", () => show(position + 1));
    byId("play").addEventListener("click", () => play(timer === null));
    byId("slider").addEventListener("input", (event) => show(Number(event.target.value)));
    byId("order").addEventListener("change", () => { sort(); show(0); });
    probe("truth");
    probe("prediction");
    fill();
    sort();
    thumbnails();
    show(0).then(() => { document.body.dataset.ready = "true"; });
  } else {
    document.body.dataset.ready = "true";
  }
})();
