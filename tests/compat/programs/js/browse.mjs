// Opens a page in Chromium and prints what it says. Usage: browse.mjs URL
import { chromium } from "playwright-core";

const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync", "--disable-component-update", "--no-first-run"],
});
try {
  const page = await browser.newPage();
  page.on("console", (message) => console.error(message.text()));
  page.on("pageerror", (error) => console.error(String(error)));
  await page.goto(process.argv[2]);
  await page.waitForFunction(() => /^(done|failed.*)$/m.test(document.getElementById("said").textContent), null, { timeout: 60000 });
  console.log(await page.textContent("#said"));
} finally {
  await browser.close();
}
