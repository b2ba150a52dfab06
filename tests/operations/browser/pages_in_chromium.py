"""Notebooks in JupyterLab, the page of runs and the HTML report in headless Chromium, without outside hosts.

`make test-browser`; not collected by `make test`, since it takes Debian's chromium and chromium-driver and the extra
`browser`. Screenshots go to .local/browser.
"""

import json
import os
import socket
import subprocess
import time
import zipfile
from pathlib import Path
from urllib.parse import urlparse

import pytest
from axe_core_python.selenium import Axe
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from swiftkv import costmodel
from swiftkv.config import ROOT
from swiftkv.report import exhibits

SHOTS = ROOT / ".local" / "browser"
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
LOCAL = "127.0.0.1"
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,2200"
).split()
PLAN = "snakemake --cores all --configfile config/smoke.yaml"
RUN_ALL = """
const done = arguments[arguments.length - 1];
window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => done('ended'), e => done(String(e)));
"""
CONTENT = "return window.jupyterapp.shell.currentWidget.context.model.toJSON()"


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The last commit, as a stranger gets it."""
    folder = tmp_path_factory.mktemp("clone") / "suite"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    return folder


@pytest.fixture
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE {LOCAL}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


def outside(browser) -> set[str]:
    """Every address asked for so far that is neither this machine nor part of the page."""
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    return {url for url in urls if urlparse(url).scheme in ("http", "https", "ws") and urlparse(url).hostname != LOCAL}


def barriers(browser) -> list[str]:
    """What axe finds to keep somebody out: critical and serious violations (names, alt text, contrast, headings)."""
    found = Axe().run(browser)["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("critical", "serious")]


def shot(browser, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SHOTS / f"{name}.png"))


@pytest.fixture(scope="module")
def lab(clone) -> str:
    """Address of a JupyterLab that was started in the clone."""
    with socket.socket() as free:
        free.bind((LOCAL, 0))
        port = free.getsockname()[1]
    settings = [f"--ServerApp.ip={LOCAL}", f"--ServerApp.port={port}", "--IdentityProvider.token=", "--allow-root"]
    command = ["jupyter", "lab", "--no-browser", "--LabApp.expose_app_in_browser=True", *settings]
    with open(os.devnull, "w") as sink:
        server = subprocess.Popen(command, cwd=clone, stdout=sink, stderr=sink)
    for _ in range(120):
        with socket.socket() as probe:
            if probe.connect_ex((LOCAL, port)) == 0:
                break
        time.sleep(0.5)
    yield f"http://{LOCAL}:{port}"
    server.terminate()
    server.wait(timeout=30)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_opens_and_runs_on_committed_results(browser, lab, name):
    browser.set_script_timeout(300)
    browser.get(f"{lab}/lab/tree/notebooks/{name}?reset")
    ready = "return !!(window.jupyterapp?.shell?.currentWidget?.context?.sessionContext?.session?.kernel)"
    WebDriverWait(browser, 90).until(lambda driver: driver.execute_script(ready))
    assert browser.execute_async_script(RUN_ALL) == "ended"
    cells = [cell for cell in browser.execute_script(CONTENT)["cells"] if cell["cell_type"] == "code"]
    assert cells and all(cell["execution_count"] for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a figure"
    shot(browser, Path(name).stem)
    assert not outside(browser)


@pytest.fixture(scope="module")
def site(clone, tmp_path_factory) -> Path:
    """The page of all published runs."""
    page = tmp_path_factory.mktemp("site") / "index.html"
    subprocess.run(["swiftkv", "site", "results/reference", "--out", page], cwd=clone, check=True)
    return page


def theme(browser, name: str, width: int) -> None:
    """A light or dark page of a width in pixels, narrower than a window can be."""
    media = {"features": [{"name": "prefers-color-scheme", "value": name}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 2200, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def drawn(browser) -> int:
    """How many figures are visible and drawn."""
    return len([one for one in browser.find_elements(By.CSS_SELECTOR, ".chart svg") if one.is_displayed()])


@pytest.mark.parametrize("width", [380, 1400])
@pytest.mark.parametrize("name", ["light", "dark"])
def test_site_is_legible_and_fits(browser, site, name, width):
    theme(browser, name, width)
    browser.get(site.as_uri())
    WebDriverWait(browser, 30).until(lambda driver: drawn(driver) >= 4)
    shot(browser, f"site-{name}-{width}")
    for anchor in ("figures", "machines", "calculator"):
        browser.execute_script(f"document.getElementById('{anchor}').scrollIntoView({{behavior: 'instant'}})")
        time.sleep(0.5)
        shot(browser, f"site-{name}-{width}-{anchor}")
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth"), (
        "no sideways scrolling"
    )
    assert not barriers(browser)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not outside(browser)


def choose(browser, id: str, text: str) -> None:
    Select(browser.find_element(By.ID, id)).select_by_visible_text(text)


def test_site_filters_draws_and_calculates(browser, site):
    browser.get(site.as_uri())
    WebDriverWait(browser, 30).until(lambda driver: drawn(driver) >= 4)
    count = browser.find_element(By.ID, "count")
    everything = count.text
    choose(browser, "by-run", "h200")
    choose(browser, "by-area", "throughput")
    shown = [one for one in browser.find_elements(By.CSS_SELECTOR, ".finding") if one.is_displayed()]
    assert count.text != everything and shown
    assert all(one.get_attribute("data-run").startswith("h200/") for one in shown)
    shown[0].find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert shown[0].find_element(By.TAG_NAME, "a").is_displayed(), "the file behind the verdict"
    browser.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    WebDriverWait(browser, 5).until(lambda driver: count.text == everything)

    choose(browser, "run-shown", "h200/h200-pack")
    WebDriverWait(browser, 30).until(lambda driver: drawn(driver) >= 3)
    bar = next(one for one in browser.find_elements(By.CSS_SELECTOR, ".mark-rect path") if one.is_displayed())
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", bar)
    ActionChains(browser).move_to_element(bar).perform()
    tip = WebDriverWait(browser, 5).until(
        lambda driver: driver.find_element(By.CSS_SELECTOR, "#vg-tooltip-element.visible")
    )
    assert "95% interval" in tip.text

    choose(browser, "preset", "Llama-3.1-70B")
    for id, value in (("input_len", 131072), ("output_len", 1), ("skipped", 40)):
        field = browser.find_element(By.ID, id)
        field.clear()
        field.send_keys(str(value))
    limit = costmodel.workload_speedup_limit(costmodel.LLAMA_70B, 40, 1, 131072, 1)
    assert f"Limit: {limit:.2f} times" in browser.find_element(By.ID, "calculated").text
    group = browser.find_element(By.ID, "group")
    group.clear()
    group.send_keys("3")
    assert "3 does not divide the 40 skipped layers" in browser.find_element(By.ID, "calculated").text


@pytest.fixture(scope="module")
def report(clone, tmp_path_factory) -> Path:
    """report.html of a reduced run."""
    archive = tmp_path_factory.mktemp("report") / "report.zip"
    for more in ([], ["--report", archive]):
        subprocess.run([*PLAN.split(), *more], cwd=clone, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["swiftkv", "label-report", archive], cwd=clone, check=True)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(archive.parent)
    return archive.parent / "report" / "report.html"


def test_report_shows_figures_and_claims(browser, report):
    browser.get(report.as_uri())
    WebDriverWait(browser, 30).until(lambda driver: "Figures" in driver.find_element(By.TAG_NAME, "body").text)
    text = browser.find_element(By.TAG_NAME, "body").text
    assert "Claims" in text and "Tables" in text
    assert not barriers(browser)
    shot(browser, "report")
    browser.find_element(By.XPATH, "//*[text()='Figures']").click()
    time.sleep(1)
    assert "fig-throughput" in browser.find_element(By.TAG_NAME, "body").text
    shot(browser, "report-figures")
    assert not barriers(browser)
    browser.find_element(By.CSS_SELECTOR, "a[aria-label='show fig-latency']").click()
    time.sleep(1)
    texts = [image.get_attribute("alt") for image in browser.find_elements(By.TAG_NAME, "img")]
    assert f"fig-latency: {exhibits.TEXTS['fig-latency']}" in texts
    shot(browser, "report-figure")
    assert not barriers(browser)
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors
    assert not outside(browser)
