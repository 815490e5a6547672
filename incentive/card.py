"""The model card of a release, in Markdown. Every sentence follows from what the run directory holds."""

from __future__ import annotations

from typing import Any

from incentive import ledger
from incentive.report.read import RunFiles

SAFETY = ("safety", "harm", "refus", "jailbreak", "unsafe")  # in the name of a task that measures it


def text(found: RunFiles, made: str, manifest: dict[str, Any], results: dict[str, Any], licence: str, name: str) -> str:
    """The whole card. `name` is the bundle's; `made` the stage whose model it is."""
    base = str(manifest["base"])
    parts = [
        f"---\nlicense: {licence}\nlibrary_name: transformers\npipeline_tag: text-generation\n"
        f"tags: [incentive, reasoning, {manifest['recipe']}]\n---\n# {name}",
        _what(found, made, manifest, base),
        "## Use\n\n" + _use(found, name),
        "## Results\n\n" + _results(results),
        "## Limits\n\n" + _limits(found, made),
        "## Safety\n\n" + _safety(results),
        "## Data and lineage\n\n" + _lineage(manifest, base),
        "## Cost\n\n" + _cost(found),
        "## Made by\n\n" + _commands(found, made),
        f"## Licence\n\n{licence}, as its base `{base}` states or as whoever released it gave. `manifest.json` names every input.",
    ]
    return "\n\n".join(parts) + "\n"


def _what(found: RunFiles, made: str, manifest: dict[str, Any], base: str) -> str:
    size = next((s.parameters for s in found.stages if s.name == made), None) or found.parameters
    weights = f"{size:,} weights that multiply" if size else "size unknown"
    return (
        f"The model of stage `{made}` of the recipe `{manifest['recipe']}` (seed {manifest['seed']}) of `incentive`, an open "
        f"implementation of DeepSeek-R1's method. It started from `{base}`; {weights}."
    )


def _use(found: RunFiles, name: str) -> str:
    template = str(found.config.get("template", "mini"))
    asked = {
        "mini": "It was trained on plain text of the form `User: {problem}\\nAssistant:`, which its chat template writes.",
        "r1-zero": "It was trained on the R1-Zero template (`incentive.chat.render('r1-zero', problem)`), which is no chat template.",
        "chat": "It was trained through its chat template.",
    }[template]
    return (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer, model = AutoTokenizer.from_pretrained("{name}"), AutoModelForCausalLM.from_pretrained("{name}")\n```\n\n'
        f"{asked} It thinks between `<think>` and `</think>` and answers between `<answer>` and `</answer>`. "
        "`generation_config.json` holds the sampling of the evaluation (temperature 0.6, top-p 0.95)."
    )


def _share(row: dict[str, Any], key: str = "pass@1", within: str = "ci95") -> str:
    low, high = row[within]
    return f"{row[key]:.1%} ({low:.1%} to {high:.1%})"


def _results(results: dict[str, Any]) -> str:
    """Tables of pass@1 with its 95% interval, k stated; the base's beside it where the run measured it."""
    rows = []
    before: dict[str, Any] = next(iter(results["base"].values()), {})
    for tasks in results["model"].values():
        for task, r in tasks.items():
            was = _share(before[task]) if task in before else "not measured"
            voted = next((f"{v:.1%}" for k, v in r.items() if k.startswith("maj@")), "")
            rows.append(
                f"| {task} | {r['problems']} | {r['samples']} | {_share(r)} | {was} | {voted} | {r['mean_tokens']:.0f} |"
            )
    for found in results["suites"]:
        for task, r in found["tasks"].items():
            votes = [k for k in r if k.startswith("cons@") and not k.endswith("ci95")]
            voted = _share(r, votes[0], f"{votes[0]}_ci95") if votes else "none"
            rows.append(
                f"| {task} | {r['problems']} | {r['samples']} | {_share(r)} | not measured | {voted} | {r['mean_tokens']:.0f} |"
            )
    if not rows:
        return "This model was not evaluated in its run, and no evaluation was given."
    head = "| task | problems | k | pass@1 (95% interval) | base | majority of k | tokens an answer |\n|---|---|---|---|---|---|---|\n"
    return (
        head
        + "\n".join(rows)
        + "\n\npass@1 is the mean over k answers to each problem, temperature 0.6 and top-p 0.95 unless "
        "`results.json` says otherwise; intervals take the problem as their unit. Test problems share no content with training."
    )


def _limits(found: RunFiles, made: str) -> str:
    section = next((s.section for s in found.stages if s.name == made), {})
    tasks = section.get("tasks") or found.config.get("rl", {}).get("tasks") or {}
    told = []
    if tasks:
        told.append(
            f"- Its last training was on {', '.join(f'`{t}`' for t in tasks)}; nothing is known of how it does elsewhere."
        )
    if cap := section.get("sampling", {}).get("max_tokens"):
        told.append(f"- It was trained with answers of at most {cap} tokens.")
    told += [
        "- Single questions only: no conversation of several turns, no tools, no structured output was trained or measured unless a table "
        "above names it.",
        "- A right answer was rewarded, not the way to it: its thinking may be wrong, circular, or in a mix of languages.",
        "- Results come from one run with one seed; another seed gives other figures.",
    ]
    return "\n".join(told)


def _safety(results: dict[str, Any]) -> str:
    """What was measured of harm and refusals, and what was not."""
    named = {**{t: r for ts in results["model"].values() for t, r in ts.items()}, **{t: r for s in results["suites"] for t, r in s["tasks"].items()}}  # fmt: skip
    safe = {t: r for t, r in named.items() if any(word in t.lower() for word in SAFETY)}
    if not safe:
        return (
            "Not measured: harmful answers, refusals of harmless requests, jailbreaks, security of the code it writes. Nothing in this "
            "run trained it to decline anything. Do not put it before users without a risk control of your own."
        )
    rows = "\n".join(f"- {t}: {_share(r)} of {r['problems']} problems" for t, r in safe.items())
    return f"Measured:\n\n{rows}\n\nNot measured: whatever the list does not name. A deployer needs a risk control of their own."


def _lineage(manifest: dict[str, Any], base: str) -> str:
    rows = []
    for s in manifest["stages"]:
        data = ", ".join(f"{k}: {_listed(v)}" for k, v in s["data"].items()) or "none"
        frm = ", ".join(f"`{m}`" if len(str(m)) != 16 else f"`{base}` ({m})" for m in s["made_from"]) or "nothing"
        rows.append(f"| {s['stage']} | {s['kind']} | {frm} | {data} |")
    return (
        "| stage | makes | from | saw |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n\nReinforcement learning saw problems and checks of "
        "their answers, and no reasoning written by a person. Keys, settings and hashes: `manifest.json`."
    )


def _listed(value: Any) -> str:
    return ", ".join(f"`{k}`" for k in value) if isinstance(value, dict) else f"`{value}`"


def _cost(found: RunFiles) -> str:
    costs = [c for s in found.stages if (c := found.costs(s)) is not None]
    if not costs:
        return "The run kept no measurements of its cost."
    rows = "\n".join(
        f"| {what.strip()} | {much} |"
        for what, much in ledger.table(sum(costs, ledger.Costs()))
        if not what.startswith("  ")
    )
    cpu = found.environment.get("cpu", "unknown")
    return f"All stages of the run, evaluations too, on {found.cores} cores ({cpu}). The base's own making is not in it.\n\n| | |\n|---|---|\n{rows}"


def _commands(found: RunFiles, made: str) -> str:
    e = found.environment
    version = f"incentive {e.get('incentive')}" + (f" at commit `{e['commit']}`" if e.get("commit") else "")
    return (
        "```bash\nincentive run recipe.toml --run runs/again      # the settings of this run, seed included\n"
        f"incentive release runs/again --stage {made} --out again\n```\n\n"
        f"With {version}, torch {e.get('torch')}, Python {e.get('python')}, {e.get('threads')} threads. The same bits come out on the "
        "same kind of machine with the same versions; elsewhere the same within rounding."
    )
