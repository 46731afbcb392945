"""The service as an operator meets it: started, watched, stopped and examined from outside."""
