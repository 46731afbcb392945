"""The embedded servers, and the servers and fixtures that the other tests stand on."""
