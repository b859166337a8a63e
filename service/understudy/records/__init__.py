"""What happened to each request, from the process that answered to the store."""
