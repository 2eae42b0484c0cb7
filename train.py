"""Trains a model on a mixture of packed streams, evaluating, saving and exporting as the recipe says.

A run that died goes on by itself when the same command is given again. Exit code 0: done; 75: it was
told to go (SIGTERM) and saved itself; 1: an error.
"""

import contextlib
import sys
from typing import Any

from configs.load import command, user_errors
from configs.recipe import TrainRecipe
from configs.resolve import (
    drop_copy,
    find_model,
    find_tokenizer,
    keep_copies,
    locate_weights,
    prepare_streams,
)


def main(argv: list[str] | None = None) -> int:
    """Reads the command line and runs the recipe; returns the exit code."""
    recipe, options = command(TrainRecipe, sys.argv[1:] if argv is None else argv, __doc__ or "")
    with user_errors():
        if options.dry_run:
            from configs.dry_run import report

            print(report(recipe))
            return 0
        from evaluation.forgetting import ForgettingError
        from tpu.runtime import process_start
        from training.steps import CorruptCheckpoint
        from training.watch import DivergedError, distrust

        try:
            with contextlib.ExitStack() as stack:
                code = train(recipe, stack, started=process_start() if argv is None else None)
        except CorruptCheckpoint as error:
            raise ValueError(str(error)) from error
        except ForgettingError as error:
            raise ValueError(f"{error}\nReport: {report_page(recipe)}") from error
        except DivergedError as error:
            raise ValueError(distrust(recipe.run_dir, error)) from error
        if code == 0:
            finish(recipe)
        return code


def train(recipe: TrainRecipe, stack: contextlib.ExitStack, *, started: float | None = None) -> int:
    """The main job, from whatever state the run is in to its end; returns the exit code.

    What has to be closed, however the job ends, goes on `stack`. `started` is when the process
    began, on the monotonic clock, where this is all it does.
    """
    # Imported here, so that --help and a mistyped key answer at once.
    import jax
    import jax.numpy as jnp

    from data.loader import batches, fingerprint
    from data.mixture import Deal
    from data.stream import open_streams
    from evaluation.inrun import InRun
    from model.attention import select
    from model.huggingface.folder import check_out
    from model.llama import num_params
    from model.lora import note
    from tpu.flags import compiler_options
    from tpu.mesh import BATCH, check_rows, make_mesh
    from tpu.runtime import (
        PREEMPTED,
        Preemption,
        is_main,
        peak_flops,
        start,
        use_compilation_cache,
    )
    from tpu.settings import choices, first_that_fits
    from tpu.startup import check_hosts, first_step_line, together
    from training.checkpoint import Checkpointer
    from training.clock import Clock
    from training.config import TrainConfig
    from training.optimizer import make_optimizer
    from training.profile import ProfileWindow
    from training.resume import check_unchanged, deal_plan, tokenizer_facts
    from training.schedule import learning_rate
    from training.state import first_state, layout
    from training.step import jit_step, make_train_step, model_flops
    from training.steps import newest_meta
    from training.tracking import Tracker
    from training.watch import Watch

    run, num_steps, num_rows = recipe.train, recipe.train.num_steps, recipe.train.global_batch_rows
    clock = Clock(started=started)
    imported = clock.seconds()["other"]

    # ---------------------------------------------------------------- machine, data, shapes
    start()
    use_compilation_cache(recipe.run_dir)
    if recipe.export is not None:
        check_out(recipe.export.out, field="export.out")
    prepare_streams(recipe)
    preemption = stack.enter_context(contextlib.closing(Preemption()))
    mesh = make_mesh(recipe.mesh)
    check_rows(num_rows, run.accumulate, mesh, field="train.global_batch_rows")
    check_rows(recipe.eval_rows, 1, mesh, field="eval.batch_rows")
    located = together(lambda: locate_weights(recipe))
    tokenizer = together(lambda: find_tokenizer(located))
    if tokenizer is None and recipe.tokenizer is not None:
        raise ValueError(
            f"tokenizer: {recipe.tokenizer} does not exist, and the streams are prepared already; "
            "name the folder `tokenizer` beside them"
        )
    config = find_model(located, tokenizer)
    streams = together(
        lambda: open_streams(recipe.streams, seq_len=run.seq_len, tokenizer=tokenizer)
    )
    data, resolved = fingerprint(streams), recipe.model_dump(mode="json")
    hosts = check_hosts(resolved, data, recipe.run_dir)
    # What the recipe leaves open, best first; the first that fits is the one.
    settings = choices(run, config, recipe.mesh, mesh)
    run, device = settings[0], mesh.devices.flat[0]
    dtype = jnp.dtype(run.compute_dtype)
    kernel, attend = select(run.attention, device.platform, dtype, mesh, run.attention_blocks)
    rate = learning_rate(recipe.optimizer, num_steps)
    tx = make_optimizer(recipe.optimizer, num_steps)
    plan = layout(config, tx, mesh)

    # ---------------------------------------------------------------- the first state
    # Own checkpoint > another run > given weights > random: training/state.py.
    before = newest_meta(recipe.run_dir) or newest_meta(recipe.resume.from_run or recipe.run_dir)
    changed = check_unchanged(before, resolved, data, accept=recipe.resume.accept_changes)
    checkpointer = stack.enter_context(Checkpointer(recipe.run_dir, recipe.checkpoint))
    with clock("restart"):
        begin = first_state(
            plan,
            checkpointer,
            recipe.resume,
            init_from=located.model.init_from,
            revision=recipe.model.revision,
            seed=recipe.seed,
        )
    state, step, row = begin.state, begin.step, begin.meta["rows"] if begin.meta else 0
    total_rows = row + (num_steps - step) * num_rows
    dealt = deal_plan(begin.meta, total_rows, list(recipe.streams), changed)
    facts = {
        "recipe": resolved,
        "data": data,
        "model": config.model_dump(mode="json"),
        "tokenizer": tokenizer_facts(tokenizer, streams),
        "accepted_changes": changed,
    }
    if is_main():
        keep_copies(recipe, tokenizer)
    if begin.imported or num_steps == 0:
        weights = facts | {"rows": 0, "counts": {}, "deal": None}
        checkpointer.save(0, state.params, None, weights, wait=True)
        drop_copy(recipe.run_dir)

    # ---------------------------------------------------------------- logs
    tracker = stack.enter_context(
        Tracker(
            recipe.run_dir,
            recipe.tracking,
            num_steps=num_steps,
            start_step=step,
            recipe=resolved,
            clock=clock,
        )
    )
    for bad, reason in begin.rejected.items():
        tracker.event("bad_checkpoint", step=bad, reason=reason)
    tracker.event("resume" if step else "start", step=step, row=row, origin=begin.origin)
    flops = model_flops(config, num_rows, run.seq_len)
    peak = peak_flops(mesh.devices.flat[0])
    tracker.say(
        f"{num_params(config):,} parameters{note(config)}, {begin.origin}\n"
        f"{hosts.line(mesh, num_rows, run.seq_len)}; attention {kernel}"
    )
    for line in changed:
        tracker.say(f"changed since the checkpoint: {line}")
    if num_steps == 0:
        return 0
    assert tokenizer is not None, "the recipe's checks ask for one, and it is prepared by now"

    # ---------------------------------------------------------------- compiled functions
    deal = Deal(
        streams,
        recipe.streams,
        recipe.mixture,
        dealt["total_rows"],
        start_row=dealt["start_row"],
        start_counts=[dealt["start_counts"][name] for name in recipe.streams],
    )
    feed = batches(
        streams,
        deal,
        seed=recipe.seed,
        global_batch_rows=num_rows,
        start_row=row,
        stop_row=total_rows,
        mesh=mesh,
        spec=BATCH,
        prefetch=run.prefetch,
    )
    stack.enter_context(contextlib.closing(feed))
    tracker.event("compile", step=step)
    with clock("compile"):
        batch = next(feed, None)
        if batch is not None:
            count, flags = len(streams), compiler_options(device) | run.compiler_flags

            def build(run: TrainConfig) -> Any:
                step = make_train_step(config, run, tx, mesh, plan.specs, attend, num_streams=count)
                jitted: Any = jit_step(step, plan.shardings, mesh)
                return jitted.lower(state, batch).compile(flags or None)

            train_step, run = first_that_fits(settings, build)
        evaluation = InRun.of(recipe, run, streams, plan, attend, tokenizer, tracker, clock)

    def save(step: int, row: int, *, wait: bool) -> None:
        """Commits state and everything that a restart must know, at once."""
        counts = dict(zip(deal.names, deal.counts(row).tolist(), strict=True))
        meta = facts | {"rows": row, "counts": counts, "deal": dealt}
        with clock("checkpoint"):
            tracker.event("saving", step=step)
            checkpointer.save(step, state.params, state.opt_state, meta, wait=wait)
        tracker.event("checkpoint", step=step, row=row)

    def report(step: int, values: dict[str, float], steps: int) -> None:
        """Logs a window of steps; its seconds are those since the last one, without pauses."""
        nonlocal busy
        spent = clock.seconds()
        seconds, busy = spent["step"] + spent["data"] - busy, spent["step"] + spent["data"]
        values["lr"] = float(rate(step - 1))
        values["tokens_per_second"] = values["tokens"] / seconds
        if peak is not None:
            values["mfu"] = flops * steps / seconds / (peak * mesh.size)
        tracker.log(step, values)

    # ---------------------------------------------------------------- the loop
    busy = 0.0
    watch = Watch(
        list(recipe.streams),
        every=recipe.tracking.every_steps,
        last_step=num_steps,
        emit=report,
        spike=run.stop_on_spike,
    )
    told = stop = False
    evaluation.begin(step)
    if step == 0:
        evaluation.measure(0, state.params)
    profile = stack.enter_context(ProfileWindow(recipe.run_dir, recipe.tracking.profile))
    while batch is not None and not (told or stop):
        profile.before(step + 1)
        with clock("step"):
            state, metrics = train_step(state, batch)
            step, row = step + 1, row + num_rows
            watch.push(step, metrics)
            if step == begin.step + 1:
                jax.block_until_ready(metrics["loss"])
                tracker.say(first_step_line(clock.seconds(), imported))
        profile.after(step, metrics)
        with clock("data"):
            batch = next(feed, None)
        told = preemption.reached(step)
        last = told or step == num_steps
        save_now = last or step % recipe.checkpoint.every_steps == 0
        evaluate_now = step == num_steps or (not told and step % recipe.eval.every_steps == 0)
        if save_now or evaluate_now:
            with clock("step"):
                watch.drain()
        if evaluate_now:
            stop = evaluation.measure(step, state.params)
        if save_now or stop:
            save(step, row, wait=last or stop)

    # ---------------------------------------------------------------- the end
    done = step == num_steps
    if stop:
        raise evaluation.stopped(step)
    tracker.event("done" if done else "preempted", step=step)
    if not done:
        tracker.say(f"told to go; step {step} is saved, the same command goes on from there")
    return 0 if done else PREEMPTED


def finish(recipe: TrainRecipe) -> None:
    """Report and export, by one process; says where everything is and what to do next."""
    from tpu.runtime import is_main

    if not is_main():
        return
    run_dir, export = recipe.run_dir, recipe.export
    if export is not None:
        from model.export import export_run

        export_run(run_dir, export.out, dtype=export.dtype, max_shard_size=export.max_shard_size)
    if recipe.train.num_steps:
        from training.report import before_and_after

        print("\nHeld-out text, before and after:")
        print(*(f"  {line}" for line in before_and_after(run_dir)), sep="\n")
        print(f"Report:   {report_page(recipe)}")
    print(f"Run:      {run_dir} (recipe, tokenizer, checkpoints, metrics)")
    if export is not None:
        print(f"Model:    {export.out} (a Hugging Face folder, checked: parity.json)")
        print(f"Measure:  python -m evaluation.run {export.out} {run_dir}/recipe.yaml")
    else:
        print(f"Measure:  python -m evaluation.run {run_dir}")
        print(f"Export:   python -m model.export {run_dir} {run_dir}/hf")
    print("Your own: docs/prepare.md for corpora, docs/recipes.md for what a recipe may say")


def report_page(recipe: TrainRecipe) -> str:
    """The page of the run, written anew by one process."""
    from tpu.runtime import is_main
    from training.report import write_report

    return write_report(recipe.run_dir) if is_main() else f"{recipe.run_dir}/report.html"


if __name__ == "__main__":
    sys.exit(main())
