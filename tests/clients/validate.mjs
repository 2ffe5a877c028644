// node validate.mjs FILE...: the Khronos validator's issues of each file, as a line "ISSUES {...}".
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
const { validateBytes } = createRequire(process.env.NODE_PATH + '/')('gltf-validator');

for (const file of process.argv.slice(2)) {
    const { issues } = await validateBytes(new Uint8Array(readFileSync(file)), { maxIssues: 1000 });
    const { numErrors, numWarnings, numHints, numInfos, messages } = issues;
    console.log('ISSUES ' + JSON.stringify({ file, numErrors, numWarnings, numHints, numInfos, messages }));
}
