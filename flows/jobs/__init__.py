"""Jobs over HTTP: ``splatmill serve``. A job is a run whose request came by POST.

book.py     jobs as they lie in the library, and what became of them
intake.py   from a body to a job: options, rows, models, the same refusals as ``splatmill run``
app.py      the routes
keeper.py   starts jobs on this machine or opens them on the farm, and tells webhooks of their ends
child.py    the process of one job on this machine
serve.py    who may ask, and the server
"""
