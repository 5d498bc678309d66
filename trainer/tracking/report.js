// Values under the pointer, also by arrow keys. The page is complete without this.
"use strict";
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const chart = JSON.parse(svg.dataset.chart);
  const series = chart.series.filter((line) => line.points.length);
  const places = [...new Set(series.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
  const make = (name, parent) => parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
  const scale = ([start, end, low, high], value, log) => {
    const by = log ? Math.log : (number) => number;
    return start + ((by(value) - by(low)) / (by(high) - by(low))) * (end - start);
  };
  const text = (value) => Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 6 });

  // The browser would show <title> as a tooltip of its own over ours
  const title = svg.querySelector("title");
  svg.setAttribute("aria-label", title.textContent);
  title.remove();

  const hover = make("g", svg);
  hover.setAttribute("class", "hover");
  const rule = make("line", hover);
  rule.setAttribute("y1", chart.y[1]);
  rule.setAttribute("y2", chart.y[0]);
  const dots = series.map((line) => {
    const dot = make("circle", hover);
    dot.setAttribute("class", line.colour);
    dot.setAttribute("r", 4);
    return dot;
  });
  const tip = svg.parentElement.appendChild(document.createElement("div"));
  tip.className = "tip";
  const hide = () => {
    hover.style.display = "none";
    tip.hidden = true;
  };
  hide();

  let current = places.length - 1;
  const show = (index) => {
    current = Math.max(0, Math.min(places.length - 1, index));
    const place = places[current];
    const x = scale(chart.x, place, false);
    rule.setAttribute("x1", x);
    rule.setAttribute("x2", x);
    const words = [chart.place + " " + place.toLocaleString("en")];
    series.forEach((line, number) => {
      const point = line.points.find((candidate) => candidate[0] === place);
      dots[number].style.display = point ? "" : "none";
      if (!point) return;
      dots[number].setAttribute("cx", x);
      dots[number].setAttribute("cy", scale(chart.y, point[1], chart.log));
      const unit = chart.unit && series.length === 1 ? " " + chart.unit : "";
      words.push((series.length > 1 ? line.name + "  " : "") + text(point[1]) + unit);
    });
    hover.style.display = "";
    tip.hidden = false;
    tip.textContent = words.join("\n");
    const figure = svg.parentElement.getBoundingClientRect();
    const box = svg.getBoundingClientRect();
    const zoom = box.width / svg.viewBox.baseVal.width;
    const left = box.left - figure.left + x * zoom;
    // Beside the line, on the side with more room, and never beyond the figure
    const beside = left > figure.width / 2 ? left - tip.offsetWidth - 12 : left + 12;
    tip.style.left = Math.max(0, Math.min(figure.width - tip.offsetWidth, beside)) + "px";
    tip.style.top = box.top - figure.top + chart.y[1] * zoom + "px";
  };
  const follow = (event) => {
    const box = svg.getBoundingClientRect();
    const [start, end, low, high] = chart.x;
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const value = low + ((x - start) / (end - start)) * (high - low);
    let nearest = 0;
    places.forEach((place, index) => {
      if (Math.abs(place - value) < Math.abs(places[nearest] - value)) nearest = index;
    });
    show(nearest);
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", hide);
  svg.setAttribute("tabindex", "0");
  svg.addEventListener("focus", () => svg.matches(":focus-visible") && show(current));
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    show(current + move);
  });
}
