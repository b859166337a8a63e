#!/bin/sh
# Runs as root while BentoML builds an image: the locale that text operators ask for.
set -e
localedef -i en_US -f UTF-8 en_US.UTF-8
