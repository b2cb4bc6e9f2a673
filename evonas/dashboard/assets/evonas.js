// What pages do without asking the server: theme, addresses that remember the controls, clicks that lead on, playing.
(function () {
  "use strict";
  var none = window.dash_clientside ? window.dash_clientside.no_update : undefined;
  var timer = null;

  function individual(run, id) {
    return "/run/" + encodeURIComponent(run) + "/individual/" + id;
  }

  function stop() {
    if (timer !== null) window.clearInterval(timer);
    timer = null;
  }

  function remember(settings) {
    var query = new URLSearchParams(window.location.search);
    Object.keys(settings).forEach(function (key) {
      if (settings[key] === null) query.delete(key);
      else query.set(key, settings[key]);
    });
    var text = query.toString();
    window.history.replaceState(null, "", window.location.pathname + (text ? "?" + text : ""));
    return window.location.href;
  }

  // Tables come as an attribute and are drawn here: what they say is only ever set as text.
  function made(part) {
    if (Array.isArray(part)) {
      var several = document.createDocumentFragment();
      part.forEach(function (one) { several.append(made(one)); });
      return several;
    }
    if (typeof part !== "object") return document.createTextNode(part);
    if (part.tick !== undefined) return box(part);
    if (part.trend) return trend(part);
    var node = document.createElement(part.tag);
    if (part.class) node.className = part.class;
    if (part.title) node.title = part.title;
    if (part.to) node.setAttribute("href", part.to);
    if (part.style) Object.assign(node.style, part.style);
    if (part.in !== "") node.append(made(part.in));
    return node;
  }

  function box(part) {
    var node = document.createElement("input");
    node.type = "checkbox";
    node.checked = part.on;
    node.value = part.tick;
    node.setAttribute("aria-label", part.label);
    return node;
  }

  function trend(part) {
    var low = Math.min.apply(null, part.trend), span = Math.max.apply(null, part.trend) - low || 1;
    var space = "http://www.w3.org/2000/svg";
    var picture = document.createElementNS(space, "svg"), line = document.createElementNS(space, "polyline");
    picture.setAttribute("viewBox", "0 0 100 24");
    picture.setAttribute("class", "trend");
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", part.label);
    line.setAttribute("points", part.trend.map(function (value, at) {
      return (2 + 96 * at / (part.trend.length - 1)).toFixed(1) + "," + (20 - 16 * (value - low) / span).toFixed(1);
    }).join(" "));
    picture.append(line);
    return picture;
  }

  function cell(kind, part, look) {
    var node = document.createElement(kind);
    if (look) node.className = look;
    node.append(made(part));
    return node;
  }

  function drawTable(holder) {
    var told = JSON.parse(holder.dataset.table), table = document.createElement("table");
    var caption = table.createCaption(), head = table.createTHead().insertRow(), body = table.createTBody();
    caption.className = "unseen";
    caption.textContent = told.label;
    told.heads.forEach(function (one) {
      var node = cell("th", one[0], one[1]);
      node.scope = "col";
      head.append(node);
    });
    told.rows.forEach(function (row) {
      var line = body.insertRow();
      row.forEach(function (part, at) { line.append(cell("td", part, told.heads[at][1])); });
    });
    told.marked.forEach(function (at) { body.rows[at].className = "marked"; });
    holder.replaceChildren(table);
  }

  function drawTables() {
    document.querySelectorAll("[data-table]").forEach(function (holder) {
      if (holder.drawnTable === holder.dataset.table) return;
      holder.drawnTable = holder.dataset.table;
      drawTable(holder);
    });
  }

  new MutationObserver(drawTables).observe(document.documentElement, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["data-table"],
  });

  document.addEventListener("click", function (event) {
    var link = event.target.closest ? event.target.closest("[data-table] a") : null;
    if (!link || event.metaKey || event.shiftKey || event.altKey || event.ctrlKey || event.button) return;
    event.preventDefault();
    window.history.pushState({}, "", link.getAttribute("href"));
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    window.scrollTo(0, 0);
  });

  document.addEventListener("change", function (event) {
    var holder = event.target.closest ? event.target.closest("[data-table]") : null;
    if (!holder) return;
    var ticked = Array.from(holder.querySelectorAll("input:checked"), function (one) { return one.value; });
    window.dash_clientside.set_props("chosen", { data: ticked });
  });

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    evonas: {
      theme: function () {
        var next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
        document.cookie = "evonas-theme=" + next + "; path=/; SameSite=Strict; max-age=31536000";
        window.location.reload();
        return none;
      },

      remember: function (across, up, colour, logs, budget, generation, over, newest) {
        return remember({
          across: across, up: up, colour: colour || null, logs: (logs || []).join(""), budget: budget || null,
          generation: generation < newest ? generation : null, over: over === "evaluations" ? null : over,
        });
      },

      words: function (generation, newest) {
        return "generation " + generation + " of " + newest;
      },

      // The slider moves by itself; a click on the button, the end or another page stops it.
      play: function (clicks, newest) {
        if (timer !== null) {
          stop();
          return "play";
        }
        var shown = document.getElementById("generation-words");
        var at = parseInt((/generation (\d+)/.exec(shown.textContent) || [0, newest])[1], 10);
        if (at >= newest) at = 0;
        var step = Math.max(1, Math.round(newest / 80));
        timer = window.setInterval(function () {
          at = Math.min(at + step, newest);
          if (!document.getElementById("generation-words")) return stop();
          window.dash_clientside.set_props("generation", { value: at });
          if (at >= newest) {
            stop();
            window.dash_clientside.set_props("play", { children: "play" });
          }
        }, 450);
        return "pause";
      },

      visit: function (click, place) {
        var point = click && click.points && click.points[0];
        if (!point || point.customdata === undefined || point.customdata === null) return none;
        var id = Array.isArray(point.customdata) ? point.customdata[0] : point.customdata;
        return Number.isInteger(id) ? individual(place.run, id) : none;
      },

      species: function (click, figure) {
        var point = click && click.points && click.points[0];
        var area = point && figure.data[point.curveNumber];
        if (!area || area.meta === undefined) return none;
        remember({ species: area.meta });
        return area.meta;
      },

      compared: function (names) {
        var query = new URLSearchParams((names || []).map(function (name) { return ["run", name]; }));
        window.history.replaceState(null, "", window.location.pathname + "?" + query.toString());
        return window.location.href;
      },

      picked: function (node, edge) {
        var pressed = window.dash_clientside.callback_context.triggered[0];
        if (pressed && pressed.prop_id.indexOf("tapEdgeData") > 0 && edge) {
          if (edge.weight === undefined) return "from " + edge.source + " to " + edge.target;
          return "link " + edge.mark + " from " + edge.source + " to " + edge.target + ", weight " +
            edge.weight.toPrecision(6) + (edge.enabled ? "" : ", disabled");
        }
        return node ? node.id + ": " + node.label.split("\n").join("  ·  ") : "";
      },
    },
  });
})();
