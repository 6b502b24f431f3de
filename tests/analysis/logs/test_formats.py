"""Every format, in excerpts with made-up numbers."""

from __future__ import annotations

import json
import math

import polars as pl
import pytest
from read_text import cells, read

from logitbox.analysis.logs import SCHEMA, read_logged
from logitbox.errors import InputError

HISTORY = """[
  {"loss": 1.2501, "grad_norm": 2.8529, "learning_rate": 0.0001789, "mean_token_accuracy": 0.7576520830392838, "epoch": 0.13, "step": 5},
  {"loss": 0.7084, "grad_norm": NaN, "learning_rate": 1e-05, "mean_token_accuracy": 0.8152150422334671, "epoch": 0.26, "step": 10},
  {"eval_loss": NaN, "eval_mean_token_accuracy": 0.8228474460396112, "eval_runtime": 13.4066, "epoch": 1.0, "step": 10},
  {"train_runtime": 140.0979, "train_loss": 0.97925, "best": null, "epoch": 1.0, "step": 10}
]"""
STATE = '{"best_model_checkpoint": null, "max_steps": 10, "logging_steps": 5, "log_history": ' + HISTORY + "}"
SWIFT = """\
{"loss": 2.05307407, "token_acc": 0.25, "learning_rate": 9.987e-05, "epoch": 0.002, "global_step/max_steps": "1/20", "percentage": "5.00%", "elapsed_time": "6s", "memory(GiB)": 15.97}
{"loss": 0.94745, "token_acc": 0.55208333, "learning_rate": 8e-08, "epoch": 0.02, "global_step/max_steps": "10/20", "percentage": "50.00%", "elapsed_time": "51s", "memory(GiB)": 16.38}
{"eval_loss": 0.8, "eval_token_acc": 0.5, "epoch": 1.0, "global_step/max_steps": "20/20", "percentage": "100.00%", "elapsed_time": "1m 51s", "memory(GiB)": 16.38}
{"model_parameter_info": "7B", "best_metric": 0.8, "log_history": [{"loss": 2.053074073791504, "token_acc": 0.25, "epoch": 0.00228768, "step": 1}, {"loss": 0.9474500417709351, "token_acc": 0.5520833333333334, "learning_rate": 8.2291e-08, "epoch": 0.02287675, "step": 10}, {"eval_loss": 0.8000000119, "eval_token_acc": 0.5, "epoch": 1.0, "step": 20}]}
"""
FACTORY = """\
{"current_steps": 5, "total_steps": 40, "loss": 2.0905, "lr": 0.0005, "epoch": 0.44, "percentage": 12.5, "elapsed_time": "0:00:25"}
{"current_steps": 10, "total_steps": 40, "loss": 1.6779, "accuracy": 0.75, "lr": 0.0005, "epoch": 0.88, "percentage": 25.0, "elapsed_time": "0:00:52"}
{"current_steps": 10, "total_steps": 40, "eval_loss": 1.5, "epoch": 0.88, "percentage": 25.0, "elapsed_time": "0:00:55"}
"""
CONSOLE = """\
# A page
os.environ['X'] = '0'; config = {'lr': 1e-4, 'name': 'x', 'loss_type': 'ce', 'epochs': 3}
2026-01-01 18:35:40 | run_5 | worker_0 | INFO | worker.py:644 | {'loss': 1.4224, 'grad_norm': nan, 'num_tokens': 112039.0, 'epoch': 0.1328}
\r  3%|▎         | 1/30 [00:00<00:05]\r{'loss': '0.7027', 'learning_rate': '1.789e-04', 'epoch': '0.2658'}\r  7%|▋  {'loss': '0.65', 'epoch': '0.3987'}
[rank0]: {'eval_loss': np.float64(0.5932), 'eval_acc': tensor(0.75, device='cuda:0'), 'sizes': [1, {'a': 2}], 'epoch': 1.0} {"loss": -Infinity, "ok": true, "epoch": 1.5}
TrainOutput(global_step=100, training_loss=0.27, metrics={'train_runtime': 74.1181, 'train_loss': 0.2768,
 'epoch': 2.0})
{'loss': 0.5, 'epo
"""  # fmt: skip
NOTEBOOK = {
    "nbformat": 4,
    "cells": [
        {"cell_type": "markdown", "source": ["{'loss': 9.0}"]},
        {
            "cell_type": "code",
            "source": ["{'loss': 9.0}"],
            "outputs": [
                {"output_type": "stream", "text": ["{'loss': 1.5, ", "'epoch': 0.25}\n"]},
                {
                    "output_type": "display_data",
                    "data": {
                        "text/plain": ["<HTML>"],
                        "text/html": [
                            "<div><progress value='2'></progress></div><table border='1'><thead><tr><th>Step</th><th>Training Loss</th>",
                            "<th>Validation Loss</th><th>Mean Token Accuracy</th></tr></thead><tbody>",
                            "<tr><td>10</td><td>No log</td><td>0.610000</td><td><b>0.812345</b></td></tr>\n",
                            "<tr><td>20</td><td>0.500000</td><td>0.590000</td><td>0.830000</td></tr></tbody></table>",
                            "<table><tr><th>name</th><th>loss</th></tr><tr><td>3</td><td>9</td></tr></table>",
                        ],
                    },
                },
                {
                    "output_type": "execute_result",
                    "data": {"text/plain": "{'epoch': 1.0,\n 'eval_loss': 0.59}"},
                },
            ],
        },
    ],
}
CHART = """\
"Step","calm-sea-1 - train/loss","calm-sea-1 - train/loss__MIN","calm-sea-1 - train/loss__MAX","a - b - train/loss","a - b - train/loss__MIN"
"1","1.5","1.5","1.5","",""
"2","","","","1.75","1.75"
"3","1.25","1.2","1.3","1.625","1.6"
"""
WANDB = """\
{"_step": 0, "_runtime": 3.5, "_timestamp": 1.7e9, "train/loss": 1.5, "train/global_step": 10, "train/epoch": 0.5}
{"_step": 1, "_runtime": 4.5, "_timestamp": 1.7e9, "eval/loss": "NaN", "eval/hist": {"_type": "histogram", "bins": [1, 2]}, "train/global_step": 10, "train/epoch": 0.5}
"""


def test_trainer_state(tmp_path):
    logged = read(tmp_path, "trainer_state.json", STATE)
    assert dict(logged.frame.schema) == {name: kind() for name, kind in SCHEMA.items()}
    got = cells(logged)
    assert got[5, "loss"] == ("train", 1.2501)
    assert got[10, "eval_mean_token_accuracy"] == ("eval", 0.8228474460396112)
    assert math.isnan(got[10, "eval_loss"][1])
    assert math.isnan(got[10, "grad_norm"][1])
    assert got[10, "train_loss"] == ("train", 0.97925)
    assert (logged.format, logged.framework) == ("transformers trainer_state.json", "trl")
    assert logged.meta == {"max_steps": 10, "logging_steps": 5}
    assert logged.notes == ("1 null value left out",)
    assert logged.runs == (0,)
    assert logged.frame["epoch"].to_list()[0] == 0.13
    # One row is one dict of the file, whatever it lacks.
    assert logged.frame.group_by("row", maintain_order=True).len()["len"].to_list() == [4, 4, 3, 2]
    by_key = dict(logged.frame.group_by("key").agg(pl.col("precision").max()).iter_rows())
    assert by_key["loss"] == 5e-5
    assert by_key["mean_token_accuracy"] < 1e-15


@pytest.mark.parametrize(
    "name", ["list.json", "wrapper.json", "deep.json", "memory", "wrapper in memory", "lists"]
)
def test_bare_lists_and_wrappers(tmp_path, name):
    data = json.loads(HISTORY)
    texts = {
        "list.json": HISTORY,
        "wrapper.json": STATE,
        "deep.json": f'{{"a": [1], "run": {{"state": {STATE}}}}}',
        "lists": f"[[{HISTORY}]]",
    }
    given = {"memory": data, "wrapper in memory": {"log_history": data}}
    logged = read(tmp_path, name, texts[name]) if name in texts else read_logged(given[name])
    whole = read(tmp_path, "trainer_state.json", STATE)
    assert logged.frame.equals(whole.frame, null_equal=True)


def test_swift(tmp_path):
    logged = read(tmp_path, "logging.jsonl", SWIFT)
    assert (logged.format, logged.framework) == ("ms-swift logging.jsonl", "ms-swift")
    got = cells(logged)
    assert got[1, "loss"][1] == 2.053074073791504  # of the history, which has all digits
    assert got[10, "learning_rate"][1] == 8.2291e-08
    assert got[1, "learning_rate"][1] == 9.987e-05  # of the line; the history lacks it
    assert got[1, "memory(GiB)"][1] == 15.97
    assert got[20, "eval_token_acc"] == ("eval", 0.5)
    assert got[10, "percentage"][1] == 0.5
    assert logged.meta["max_steps"] == 20
    assert logged.frame["row"].n_unique() == 3
    assert logged.notes[0] == "3 rows told again in a log_history: put together, its digits kept"
    assert logged.notes[1] == "3 values without a number left out (elapsed_time)"


def test_a_history_that_says_more_is_put_behind(tmp_path):
    more = SWIFT.replace('"eval_loss": 0.8000000119', '"eval_loss": 0.9')
    logged = read(tmp_path, "logging.jsonl", more)
    assert "2 rows told again" in logged.notes[0]
    assert logged.frame.filter(key="eval_loss")["value"].to_list() == [0.8, 0.9]


def test_llama_factory(tmp_path):
    logged = read(tmp_path, "trainer_log.jsonl", FACTORY)
    assert (logged.format, logged.framework) == ("LLaMA-Factory trainer_log.jsonl", "llama-factory")
    assert cells(logged)[10, "accuracy"] == ("train", 0.75)
    assert cells(logged)[10, "eval_loss"] == ("eval", 1.5)
    assert logged.meta == {"max_steps": 40}
    assert "total_steps" not in logged.frame["key"]


@pytest.mark.parametrize("name", ["train.log", "page.md", "out.txt", "stdout"])
def test_console(tmp_path, name):
    logged = read(tmp_path, name, CONSOLE)
    assert logged.format == "console text"
    loss = logged.frame.filter(key="loss")
    assert loss["value"].to_list() == [1.4224, 0.7027, 0.65, -math.inf]
    assert loss["precision"].to_list() == [5e-5, 5e-5, 5e-5, 0.0]
    assert loss["epoch"].to_list() == [0.1328, 0.2658, 0.3987, 1.5]
    assert loss["step"].to_list() == [None] * 4
    values = dict(logged.frame.select("key", "value").iter_rows())
    assert (values["eval_loss"], values["eval_acc"], values["train_loss"]) == (0.5932, 0.75, 0.2768)
    assert values["learning_rate"] == 1.789e-4
    assert "1 dict without a metric left out" in logged.notes
    assert "lr" not in values


def test_notebook(tmp_path):
    logged = read(tmp_path, "a.ipynb", json.dumps(NOTEBOOK))
    assert logged.format == "notebook outputs"
    got = cells(logged)
    assert got[10, "eval_loss"] == ("eval", 0.61)
    assert got[10, "eval_mean_token_accuracy"] == ("eval", 0.812345)
    assert (10, "loss") not in got
    assert got[20, "loss"] == ("train", 0.5)
    assert got[None, "loss"] == ("train", 1.5)
    assert got[None, "eval_loss"] == ("eval", 0.59)
    assert logged.frame.height == 7
    assert logged.frame.filter(key="eval_loss", step=10)["precision"].item() == 5e-7
    with pytest.raises(InputError, match="is no notebook"):
        read(tmp_path, "b.ipynb", "[1]")


def test_results(tmp_path):
    logged = read(
        tmp_path, "eval_results.json", '{"epoch": 3.0, "eval_loss": 8.65, "perplexity": 5734.7, "name": "x"}'
    )
    assert logged.format == "results JSON"
    assert cells(logged) == {(None, "eval_loss"): ("eval", 8.65), (None, "perplexity"): ("train", 5734.7)}
    assert logged.frame["epoch"].to_list() == [3.0, 3.0]


def test_wandb(tmp_path):
    chart = read(tmp_path, "chart.csv", CHART)
    assert chart.format == "W&B chart (CSV)"
    assert chart.runs == (0, 1)
    assert cells(chart) == {(1, "train/loss"): ("train", 1.5), (3, "train/loss"): ("train", 1.25)}
    assert cells(chart, run=1) == {(2, "train/loss"): ("train", 1.75), (3, "train/loss"): ("train", 1.625)}
    assert chart.notes == (
        "3 columns of least and greatest values left out",
        "run 1 is calm-sea-1",
        "run 2 is a - b",
    )
    history = read(tmp_path, "history.jsonl", WANDB)
    assert history.format == "W&B history"
    assert cells(history)[10, "train/loss"] == ("train", 1.5)
    assert history.frame.filter(key="eval/loss").select("step", "epoch", "phase").row(0) == (10, 0.5, "eval")
    summary = read(
        tmp_path, "wandb-summary.json", '{"_step": 7, "_runtime": 9, "loss": 0.5, "_wandb": {"runtime": 9}}'
    )
    assert summary.format == "W&B summary"
    assert cells(summary)[7, "loss"] == ("train", 0.5)
    table = read(tmp_path, "h.csv", "_step,_runtime,loss,eval/loss\n0,1.5,2.5,\n1,2.5,,NaN\n")
    assert table.format == "W&B history (CSV)"
    assert cells(table)[0, "loss"] == ("train", 2.5)
    assert math.isnan(cells(table)[1, "eval/loss"][1])


def test_tables(tmp_path):
    wide = read(tmp_path, "a.csv", "Step,Epoch,loss,phase\n5,0.5,1.50,eval\n6,,2.25,\n7,1,3.0,,9\n")
    assert cells(wide) == {
        (5, "loss"): ("eval", 1.5),
        (6, "loss"): ("train", 2.25),
        (7, "loss"): ("train", 3.0),
    }
    assert wide.notes == ("1 row with more cells than the header: the rest left out",)
    long = read(
        tmp_path,
        "a.tsv",
        "step\tkey\tvalue\n1\tloss\t1.5\n1\ttrain/epoch\t0.5\n1\tval/loss\t2\n2\tloss\t1\n2\tloss\t3\n",
    )
    assert long.frame["row"].to_list() == [0, 0, 1, 2]
    assert long.frame["run"].to_list() == [0, 0, 0, 1]
    assert long.frame["phase"].to_list() == ["train", "eval", "train", "train"]
    assert long.frame["epoch"].to_list() == [0.5, 0.5, None, None]
    both = read(tmp_path, "b.csv", "run,step,key,value\nx,1,loss,1\ny,1,loss,2\nx,2,loss,3\n")
    assert cells(both) == {(1, "loss"): ("train", 1), (2, "loss"): ("train", 3)}
    assert cells(both, run=1) == {(1, "loss"): ("train", 2)}
    keras = read(tmp_path, "k.json", '{"loss": [2.5, 1.5], "val_loss": [3, null]}')
    assert keras.frame["value"].to_list() == [2.5, 3.0, 1.5]


def test_the_last_line_may_be_cut_short(tmp_path):
    logged = read(tmp_path, "x.jsonl", FACTORY + '{"current_steps": 15, "lo')
    assert logged.frame["row"].n_unique() == 3
    assert logged.notes[0] == "the last line is cut short and left out"
