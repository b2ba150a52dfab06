// Names for the icons, pictures and regions of Snakemake's report, for screen readers; put into it by `swiftkv label-report`.
(() => {
  const exhibits = EXHIBITS; // id -> what it shows
  const icons = { eye: "show", "information-circle": "about" };

  function nameOfLink(link) {
    const subject = link.closest("tr")?.cells[0]?.innerText ?? "this entry";
    const action = icons[link.getAttribute("iconname")];
    if (action) return `${action} ${subject}`;
    if (link.closest("ol")) return "start page";
    return link.closest("h1") ? "hide the menu" : "show the menu or close this view";
  }

  function nameOfPicture(source) {
    const id = source.split("/").pop().replace(/\.(png|svg)$/, "");
    return source.startsWith("data:image/svg") ? "" : `${id}: ${exhibits[id] ?? "a picture"}`;
  }

  function label() {
    for (const link of document.querySelectorAll("#app a:not([aria-label])")) {
      if (!link.innerText.trim()) link.setAttribute("aria-label", nameOfLink(link));
    }
    for (const image of document.querySelectorAll("#app img:not([alt])")) image.alt = nameOfPicture(image.src);
    for (const input of document.querySelectorAll("#app input:not([aria-label])")) {
      input.setAttribute("aria-label", input.title || input.placeholder);
    }
    const menus = document.querySelectorAll("#app nav:not([aria-label])");
    menus.forEach((menu) => menu.setAttribute("aria-label", menu.querySelector("h1") ? "report" : "path"));
    const page = document.querySelector("#app > div > :last-child:not([role])");
    if (page && page.tagName !== "NAV") page.setAttribute("role", "main");
  }

  new MutationObserver(label).observe(document.getElementById("app"), { childList: true, subtree: true });
  label();
})();
