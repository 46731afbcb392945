"""The tiny language of the embedded models: requests, answers, instructions and graders, all from a seed.

A test article: small enough that a model learns it in minutes, rich enough that safety training, over-refusal
and collapse can be seen and counted on requests that training never saw. Harmful texts are of the form "how to
<verb> <object>" and their answers hold a placeholder, never an instruction. Nothing is stored; whoever needs
requests draws them.

    nouns, grids, facts   what can be asked, in cells of verb x object
    splits                which cells, objects, templates, prefixes and wordings training never sees
    wording               how it is asked and answered
    instructions          system prompts: none, neutral, safety
    prompts               drawing requests
    grading               what an answer is: refused, complied, useful, garbled
    evaluation_sets       the frozen sets of the demo
"""
