// node shoot.mjs URL PICTURE PROFILE: open a page in headless Chromium, wait for window.done, keep a picture of it.
// Prints {"value": window.done, "errors": [...]}.
import { createRequire } from 'node:module';
const puppeteer = createRequire(process.env.NODE_PATH + '/')('puppeteer-core');

const [url, picture, profile] = process.argv.slice(2);
const flags = ['--no-sandbox', '--no-first-run', '--disable-background-networking', '--disable-component-update',
    '--disable-sync', '--disable-quic', '--hide-scrollbars', '--use-gl=angle', '--use-angle=swiftshader',
    '--enable-unsafe-swiftshader'];
const browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium', headless: true, args: flags, userDataDir: profile,
    protocolTimeout: 150000,
});
const errors = [];
try {
    const page = await browser.newPage();
    await page.setViewport({ width: 512, height: 512 });
    page.on('pageerror', (error) => errors.push(String(error)));
    page.on('requestfailed', (request) => errors.push(`${request.url()}: ${request.failure().errorText}`));
    await page.goto(url);
    await page.waitForFunction('window.done', { timeout: 120000 });
    await page.screenshot({ path: picture });
    console.log(JSON.stringify({ value: await page.evaluate('window.done'), errors }));
} catch (error) {
    console.log(JSON.stringify({ value: null, errors: [...errors, String(error)] }));
} finally {
    await browser.close();
}
