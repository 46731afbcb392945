"""The proxies that the route is compared with: LiteLLM's in an environment of its own, and a bare one."""
