"""The database schema's history, one file a step: ``NNNN_verb_noun.py``, run by ``sentinel migrate`` only.

Besides Alembic's names each step states ``deploy``, whether it runs before (``pre``) or after (``post``) the
new release is rolled out, and ``oldest_release``, the oldest release that works on the schema it leaves.
"""
