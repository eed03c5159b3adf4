(() => {
  "use strict";
  const dialog = document.getElementById("enlarged");
  let cards = [];
  let place = 0;
  let isWhole = true;
  const first = 24; // cards shown before the button for all is pressed

  const byRank = (a, b) => Number(a.dataset.rank) - Number(b.dataset.rank);
  const orders = {
    worst: byRank,
    score: (a, b) => Number(b.dataset.score) - Number(a.dataset.score) || byRank(a, b),
    small: (a, b) => Number(a.dataset.size) - Number(b.dataset.size) || byRank(a, b),
    large: (a, b) => Number(b.dataset.size) - Number(a.dataset.size) || byRank(a, b),
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name) || byRank(a, b),
  };

  function arrange(gallery) {
    const list = gallery.querySelector(".cards");
    const form = gallery.querySelector(".controls");
    const value = (name) => (form.elements[name] ? form.elements[name].value : "");
    const matches = ({ kind, classes }) =>
      (!value("kind") || kind === value("kind")) && (!value("class") || classes.split(" ").includes(value("class")));
    const items = [...list.children].sort(orders[value("order")] || byRank);
    list.append(...items);
    const chosen = items.filter((item) => matches(item.dataset));
    const shown = "all" in gallery.dataset ? chosen : chosen.slice(0, first);
    for (const item of items) {
      item.hidden = !shown.includes(item);
      item.classList.toggle("chosen", chosen.includes(item));
    }
    form.querySelector("output").textContent = `${chosen.length} of ${items.length}`;
    const more = gallery.querySelector(".more");
    more.hidden = shown.length === chosen.length;
    more.textContent = `Show all ${chosen.length}`;
  }

  function choose(gallery, choice) {
    const form = gallery.querySelector(".controls");
    for (const name of ["kind", "class"]) {
      if (form.elements[name]) form.elements[name].value = choice[name] || "";
    }
    arrange(gallery);
  }

  function show() {
    const card = cards[place].querySelector(".card");
    const [, , width, height] = card.dataset.whole.split(" ").map(Number);
    const svg = card.querySelector("svg").cloneNode(true);
    const hasFocus = svg.getAttribute("viewBox") !== card.dataset.whole;
    if (isWhole) svg.setAttribute("viewBox", card.dataset.whole);
    const [, , w, h] = svg.getAttribute("viewBox").split(" ").map(Number);
    const stage = dialog.querySelector(".stage");
    const scale = Math.max(w / stage.clientWidth, h / stage.clientHeight) || Math.max(width, height) / 800;
    svg.style.setProperty("--unit", `${15 * scale}px`);
    for (const use of svg.querySelectorAll("use.all")) {
      const marks = document.querySelector(use.getAttribute("href")).cloneNode(true);
      marks.removeAttribute("id");
      use.replaceWith(marks);
    }
    for (const text of svg.querySelectorAll("text")) text.style.fontSize = `${15 * scale}px`;
    stage.replaceChildren(svg);
    dialog.querySelector("p").textContent = `${place + 1} of ${cards.length}: ${card.dataset.caption}`;
    const zoom = dialog.querySelector("[data-do=zoom]");
    zoom.hidden = !hasFocus;
    zoom.textContent = isWhole ? "Zoom in" : "Whole picture";
  }

  const step = (by) => { place = (place + by + cards.length) % cards.length; show(); };
  const actions = {
    previous: () => step(-1),
    next: () => step(1),
    zoom: () => { isWhole = !isWhole; show(); },
    close: () => dialog.close(),
  };
  const keys = { ArrowLeft: "previous", ArrowRight: "next", z: "zoom" };

  function open(item) {
    cards = [...item.parentElement.querySelectorAll(".chosen")];
    place = cards.indexOf(item);
    isWhole = true;
    dialog.showModal();
    show();
  }

  for (const gallery of document.querySelectorAll(".gallery")) {
    const form = gallery.querySelector(".controls");
    if (form) {
      form.hidden = false;
      form.addEventListener("input", () => arrange(gallery));
      form.addEventListener("submit", (event) => event.preventDefault());
      gallery.querySelector(".more").addEventListener("click", () => {
        gallery.dataset.all = "";
        arrange(gallery);
      });
      arrange(gallery);
    }
    for (const item of gallery.querySelectorAll(".cards > li")) {
      item.querySelector(".card").addEventListener("click", () => open(item));
    }
  }
  for (const link of document.querySelectorAll("a[data-gallery]")) {
    link.addEventListener("click", () => choose(document.getElementById(link.dataset.gallery), link.dataset));
  }
  if (dialog) {
    dialog.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) actions[button.dataset.do]();
    });
    dialog.addEventListener("keydown", (event) => {
      if (!keys[event.key]) return;
      event.preventDefault();
      actions[keys[event.key]]();
    });
    dialog.addEventListener("close", () => { if (cards[place]) cards[place].querySelector(".card").focus(); });
    window.addEventListener("resize", () => { if (dialog.open) show(); });
  }
})();
