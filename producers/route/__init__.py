"""The route: an OpenAI-compatible pass-through that follows promotions and reports what was said.

application ── server ── forward ── a replica
                 │  names: public name -> adapter, and back in the answer
                 └─ publish (after the answer is out): queue -> Kafka, or -> spool -> Kafka
mapping follows the table of promotions, replicas follow /v1/models
"""
