"""The local page of `meshgpt demo`: what is asked for there, written while one watches, and the page itself."""
