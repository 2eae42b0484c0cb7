"""What is noted of every document so that copies can be found without the documents themselves.

`Surveyor.survey(document, cleaned, corpus)` is a pure function: the record of a document, as bytes, from
any process. Records are appended to `SurveyFile`s (one a process), and `decide` reads those of all
corpora together, out of core:

    surveyor = Surveyor(config.clean, corpora=[names in the recipe's order], fraction=heldout.fraction)
    file = SurveyFile(folder / "survey")            # in each reading process
    file.add(surveyor.survey(document, cleaned, "articles")); file.close()
    ...
    decide(paths, surveyor, out=spool / "verdicts")  # once; writes a folder
    verdicts = Verdicts(spool / "verdicts")          # in each process; memory-mapped
    verdicts.is_held_out(document)                   # as data.split.Split had it
    stage = verdicts.stage("articles", tally)        # after the cleaners; drops what is to go, counted
    verdicts.contamination("articles")               # for the card
"""
