"""``meta-opt study --help``, which imports no torch."""

HELP = """\
usage: meta-opt study NAME [OPTIONS]
       meta-opt study FILE.yaml [OPTIONS]
       meta-opt study --list

Meta-train many times with different options, test every result, and draw the figure. docs/studies.md says what is in
the file of a study, and what came out of those that are shipped.

options:
  --list              the studies that come with meta-opt
  --quick             a first look, in minutes: fewer runs, labels and episodes, as the study says
  --runs N            runs of every point, with the seeds 0 to N-1 (default: as the study says)
  --workers N         processes that do runs, one thread each (default: one per processor)
  --cluster ADDRESS   have the workers of a dask.distributed scheduler do them (pip install 'meta-opt[cluster]')
  --out FOLDER        where the results are, or are to be (default: studies/NAME, with --quick studies/NAME_quick)
  --report            no runs: report and figure of what is there, also while the study is running

what comes of it, in the folder:
  results.jsonl       a line for every run, written when it ends. A study that was stopped goes on where it was; one
                      that fails is a line with its error, and is not done again. Delete a line to have it made again.
  report.md           question, figure, the text with its numbers, a table, and the errors
  figure.svg          the figure

examples:
  meta-opt study activations --quick
  meta-opt study activations --runs 10 --workers 2
  meta-opt study activations --report
"""
